"""The suite's own secrets: the service token, an authority and a certificate of its own.

``python -m service_kit.security HOME`` makes them where no launcher does, e.g. for containers.
"""

from __future__ import annotations

import argparse
import fcntl
import ipaddress
import os
import secrets
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from service_kit.errors import FailedPrecondition

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

_YEAR = timedelta(days=365)
_RENEW_BEFORE = timedelta(days=30)
_LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class SuiteKeys:
    """Files under ``{home}/keys``; the directory is 0700 and each file 0600.

    Attributes:
        service_key: The shared token of the suite's processes, 64 hexadecimal digits.
        ca_cert, ca_key: The suite's own certificate authority (PEM).
        tls_cert, tls_key: Certificate of servers and clients alike, valid for a year (PEM).
    """

    service_key: Path
    ca_cert: Path
    ca_key: Path
    tls_cert: Path
    tls_key: Path


def suite_keys(home: Path) -> SuiteKeys:
    """Where the keys of a suite lie, whether they exist or not."""
    keys = home / "keys"
    return SuiteKeys(
        service_key=keys / "service.key",
        ca_cert=keys / "ca.crt",
        ca_key=keys / "ca.key",
        tls_cert=keys / "tls.crt",
        tls_key=keys / "tls.key",
    )


def ensure_suite_keys(home: Path, hostnames: Sequence[str] = ()) -> SuiteKeys:
    """Make what is missing and renew what ends within 30 days; safe to call at the same time.

    Args:
        home: Data directory of the suite.
        hostnames: Names or addresses, beside this machine's own, for the certificate.
    """
    paths = suite_keys(home)
    folder = paths.service_key.parent
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder.chmod(0o700)
    with _locked(folder / ".lock"):
        if not paths.service_key.is_file():
            _write(paths.service_key, secrets.token_hex(32).encode())
        if not _lasts(paths.ca_cert) or not paths.ca_key.is_file():
            _make_authority(paths)
            paths.tls_cert.unlink(missing_ok=True)
        names = tuple(dict.fromkeys((*_LOCAL_NAMES, socket.gethostname(), *hostnames)))
        if not _lasts(paths.tls_cert, names) or not paths.tls_key.is_file():
            _make_certificate(paths, names)
    return paths


def read_service_token(home: Path) -> str:
    """The shared token of the suite.

    Raises:
        FailedPrecondition: ``NO_SUITE_KEYS`` before :func:`ensure_suite_keys` was called.
    """
    try:
        return suite_keys(home).service_key.read_text().strip()
    except FileNotFoundError:
        raise FailedPrecondition("NO_SUITE_KEYS", "the suite has no keys yet") from None


def share_suite_keys(paths: SuiteKeys, folder: Path, further: Sequence[Path] = ()) -> None:
    """Copy to a folder what a service needs: everything but the authority's key.

    Args:
        paths: Keys of the suite, all of which exist.
        folder: Made when it is missing, and closed to others.
        further: More files to copy.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder.chmod(0o700)
    for path in (paths.service_key, paths.ca_cert, paths.tls_key, paths.tls_cert, *further):
        _write(folder / path.name, path.read_bytes())


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line: makes or renews the keys, and shares them."""
    parser = argparse.ArgumentParser(prog="python -m service_kit.security", description=__doc__)
    parser.add_argument("home", type=Path, help="keeps all keys in its folder keys/")
    parser.add_argument(
        "--hostname", action="append", default=[], help="a name that services are reached by"
    )
    parser.add_argument(
        "--secret", action="append", default=[], help="file name of a further secret to make"
    )
    parser.add_argument(
        "--share",
        action="append",
        default=[],
        type=Path,
        help="folder that gets all but the authority's key",
    )
    given = parser.parse_args(arguments)
    paths = ensure_suite_keys(given.home, given.hostname)
    further = [paths.service_key.with_name(name) for name in given.secret]
    for path in further:
        if not path.is_file():
            _write(path, secrets.token_hex(32).encode())
    for folder in given.share:
        share_suite_keys(paths, folder, further)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _write(path: Path, content: bytes) -> None:
    scratch = path.with_name(f".{path.name}.new")
    scratch.unlink(missing_ok=True)
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    scratch.replace(path)


def _lasts(path: Path, names: Sequence[str] = ()) -> bool:
    from cryptography import x509

    if not path.is_file():
        return False
    certificate = x509.load_pem_x509_certificate(path.read_bytes())
    if certificate.not_valid_after_utc - datetime.now(UTC) < _RENEW_BEFORE:
        return False
    if not names:
        return True
    found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return {_general_name(name) for name in names} <= set(found)


def _make_authority(paths: SuiteKeys) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    key = _new_key()
    name = _common_name("Modelyard suite authority")
    certificate = (
        _builder(name, name, key.public_key(), 10 * _YEAR)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    _write(paths.ca_key, _private_pem(key))
    _write(paths.ca_cert, _public_pem(certificate))


def _make_certificate(paths: SuiteKeys, names: Sequence[str]) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.serialization import load_pem_private_key
    from cryptography.x509.oid import ExtendedKeyUsageOID

    authority = x509.load_pem_x509_certificate(paths.ca_cert.read_bytes())
    authority_key: ec.EllipticCurvePrivateKey = load_pem_private_key(  # type: ignore[assignment]
        paths.ca_key.read_bytes(), password=None
    )
    key = _new_key()
    both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    issuer_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key())
    certificate = (
        _builder(_common_name("Modelyard service"), authority.subject, key.public_key(), _YEAR)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(both), critical=False)
        .add_extension(
            x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False
        )
        .add_extension(issuer_id, critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    _write(paths.tls_key, _private_pem(key))
    _write(paths.tls_cert, _public_pem(certificate))


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, life: timedelta
) -> x509.CertificateBuilder:
    from cryptography import x509

    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        # A little earlier, for machines whose clocks differ.
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + life)
    )


def _key_usage(*, signs: bool) -> x509.KeyUsage:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=signs,
        crl_sign=signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _new_key() -> ec.EllipticCurvePrivateKey:
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.generate_private_key(ec.SECP256R1())


def _common_name(text: str) -> x509.Name:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _general_name(name: str) -> x509.GeneralName:
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _public_pem(certificate: x509.Certificate) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.PEM)


if __name__ == "__main__":
    main()
