"""The suite's own keys."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from service_kit.errors import FailedPrecondition
from service_kit.security import ensure_suite_keys, main, read_service_token, suite_keys


def make(home: Path) -> tuple[bytes, ...]:
    keys = ensure_suite_keys(home)
    files = (keys.service_key, keys.ca_cert, keys.ca_key, keys.tls_cert, keys.tls_key)
    return tuple(file.read_bytes() for file in files)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_keys_are_for_their_owner_only(tmp_path: Path) -> None:
    make(tmp_path / "home")
    assert mode(tmp_path / "home" / "keys") == 0o700
    assert {mode(file) for file in (tmp_path / "home" / "keys").iterdir()} == {0o600}


def test_a_folder_that_others_may_read_is_closed(tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir(mode=0o755)
    make(tmp_path)
    assert mode(tmp_path / "keys") == 0o700


def test_a_second_time_changes_nothing(tmp_path: Path) -> None:
    assert make(tmp_path) == make(tmp_path)


def test_all_who_start_at_once_get_the_same(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=4, mp_context=spawn) as pool:
        assert len(set(pool.map(make, [tmp_path] * 4))) == 1


def test_the_token_has_256_bits(tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition, match="NO_SUITE_KEYS"):
        read_service_token(tmp_path)
    ensure_suite_keys(tmp_path)
    assert len(bytes.fromhex(read_service_token(tmp_path))) == 32


def test_the_certificate_is_the_authoritys_and_lasts_a_year(tmp_path: Path) -> None:
    keys = ensure_suite_keys(tmp_path)
    authority = x509.load_pem_x509_certificate(keys.ca_cert.read_bytes())
    certificate = x509.load_pem_x509_certificate(keys.tls_cert.read_bytes())
    certificate.verify_directly_issued_by(authority)
    left = certificate.not_valid_after_utc - datetime.now(UTC)
    assert timedelta(days=364) < left <= timedelta(days=365)


def test_new_hostnames_make_a_new_certificate_of_the_same_authority(tmp_path: Path) -> None:
    before = make(tmp_path)
    ensure_suite_keys(tmp_path, ["registry.modelyard", "10.0.0.7"])
    keys = suite_keys(tmp_path)
    certificate = x509.load_pem_x509_certificate(keys.tls_cert.read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert "registry.modelyard" in names.get_values_for_type(x509.DNSName)
    assert "10.0.0.7" in map(str, names.get_values_for_type(x509.IPAddress))
    assert (keys.service_key.read_bytes(), keys.ca_cert.read_bytes()) == before[:2]


def test_fewer_hostnames_keep_the_certificate(tmp_path: Path) -> None:
    certificate = ensure_suite_keys(tmp_path, ["registry.modelyard"]).tls_cert.read_bytes()
    assert ensure_suite_keys(tmp_path).tls_cert.read_bytes() == certificate


def test_the_command_line_shares_all_but_the_authoritys_key(tmp_path: Path) -> None:
    command = [str(tmp_path), "--hostname", "registry", "--secret", "ray.token"]
    command += ["--share", str(tmp_path / "one"), "--share", str(tmp_path / "two")]
    for folder in ("one", "two"):
        main(command)
        files = {file.name: file for file in (tmp_path / folder).iterdir()}
        assert files.keys() == {"service.key", "ca.crt", "tls.crt", "tls.key", "ray.token"}
        assert {mode(file) for file in files.values()} == {0o600}
        assert mode(tmp_path / folder) == 0o700
        for name, file in files.items():
            assert file.read_bytes() == (tmp_path / "keys" / name).read_bytes()
