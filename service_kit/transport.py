"""Addresses and TLS: nothing leaves this machine in the clear."""

from __future__ import annotations

import ipaddress
import ssl

import grpc

from service_kit.settings import ServiceSettings

#: Largest gRPC message in either direction, in bytes.
MAX_MESSAGE_BYTES = 64 * 1024 * 1024

#: Options that servers and channels share.
OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
)


class UnsafeAddressError(ValueError):
    """An address beyond this machine, and no TLS to go there."""


def split_address(address: str) -> tuple[str, int]:
    """Host and port of ``host:port`` or ``[v6]:port``.

    Raises:
        ValueError: When it has another form.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal():
        raise ValueError("an address must have the form host:port or unix:/path")
    return host.removeprefix("[").removesuffix("]"), int(port)


def is_unix(address: str) -> bool:
    """Whether an address is that of a Unix socket."""
    return address.startswith(("unix:", "unix-abstract:"))


def is_local(address: str) -> bool:
    """Whether an address cannot be reached from another machine."""
    if is_unix(address):
        return True
    host, _ = split_address(address)
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def require_safe(address: str, settings: ServiceSettings) -> None:
    """Refuse an address beyond this machine unless TLS is configured.

    Raises:
        UnsafeAddressError: Naming the settings that would allow it.
    """
    if not settings.tls and not is_local(address):
        raise UnsafeAddressError(
            f"{address} is not a loopback address or a Unix socket: "
            "set MODELYARD_TLS_CERT, MODELYARD_TLS_KEY and MODELYARD_TLS_CA to use it"
        )


def server_credentials(settings: ServiceSettings) -> grpc.ServerCredentials | None:
    """Mutual TLS for a gRPC server, or nothing when it is not configured."""
    pem = _read_pem(settings)
    if pem is None:
        return None
    cert, key, authority = pem
    return grpc.ssl_server_credentials(
        [(key, cert)], root_certificates=authority, require_client_auth=True
    )


def channel_credentials(settings: ServiceSettings) -> grpc.ChannelCredentials | None:
    """Mutual TLS for a gRPC channel, or nothing when it is not configured."""
    pem = _read_pem(settings)
    if pem is None:
        return None
    cert, key, authority = pem
    return grpc.ssl_channel_credentials(
        root_certificates=authority, private_key=key, certificate_chain=cert
    )


def http_tls(settings: ServiceSettings) -> ssl.SSLContext | None:
    """Mutual TLS for an HTTP server, or nothing when it is not configured."""
    if settings.tls_cert is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(settings.tls_cert, settings.tls_key)
    context.load_verify_locations(settings.tls_ca)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_tls(settings: ServiceSettings) -> ssl.SSLContext | None:
    """Mutual TLS for a plain connection to a peer, or nothing when it is not configured."""
    if settings.tls_cert is None:
        return None
    context = ssl.create_default_context(cafile=settings.tls_ca)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(settings.tls_cert, settings.tls_key)
    return context


def _read_pem(settings: ServiceSettings) -> tuple[bytes, bytes, bytes] | None:
    if settings.tls_cert is None or settings.tls_key is None or settings.tls_ca is None:
        return None
    return (
        settings.tls_cert.read_bytes(),
        settings.tls_key.read_bytes(),
        settings.tls_ca.read_bytes(),
    )
