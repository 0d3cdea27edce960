"""Messages over a socket, each led by its length: what the data plane speaks.

A frame is four bytes (the length of what follows, little-endian) and a message of the contracts.
The first frame in either direction is a `Hello` and a `Welcome`; a peer who does not know the
suite's token gets nothing else. One message costs a tenth of what it costs as part of a gRPC
stream, where the machinery is most of it (see docs/decisions/0009).
"""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import Callable, Mapping
from typing import cast

from modelyard.dataplane.v1 import dataplane_pb2

from service_kit import interceptors, transport
from service_kit.errors import DomainError, PermissionDenied, Unauthenticated
from service_kit.settings import ServiceSettings

#: Largest frame in bytes; a longer one ends the connection.
MOST_BYTES = transport.MAX_MESSAGE_BYTES
#: Largest first frame: what a stranger may make us keep.
MOST_HELLO_BYTES = 4_096
_LENGTH = 4

_log = logging.getLogger(__name__)


class FrameProtocol(asyncio.Protocol):
    """One connection.

    Attributes:
        writable: False while the peer does not read what it was sent.
    """

    transport: asyncio.Transport

    def __init__(self) -> None:
        self.writable = True
        self._most = MOST_HELLO_BYTES
        self._buffer = bytearray()

    @property
    def has_more(self) -> bool:
        """Whether more came with the frame that is being received."""
        return bool(self._buffer)

    def opened(self) -> None:
        """The connection stands."""

    def received(self, message: bytes) -> None:
        """A frame came; raising anything ends the connection."""
        raise NotImplementedError

    def closed(self) -> None:
        """The connection has ended."""

    def resumed(self) -> None:
        """The peer reads again."""

    def trust(self) -> None:
        """From now on, frames may be large."""
        self._most = MOST_BYTES

    def send(self, message: bytes) -> None:
        """Send a frame."""
        self.transport.write(len(message).to_bytes(_LENGTH, "little") + message)

    def connection_made(self, made: asyncio.BaseTransport) -> None:
        """Called by the event loop."""
        self.transport = cast(asyncio.Transport, made)
        self.opened()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Called by the event loop."""
        self.closed()

    def pause_writing(self) -> None:
        """Called by the event loop."""
        self.writable = False

    def resume_writing(self) -> None:
        """Called by the event loop."""
        self.writable = True
        self.resumed()

    def data_received(self, data: bytes) -> None:
        """Called by the event loop."""
        try:
            size = int.from_bytes(data[:_LENGTH], "little")
            if not self._buffer and len(data) == _LENGTH + size and size <= self._most:
                self.received(data[_LENGTH:])  # nearly always: one frame, whole
                return
            self._buffer += data
            while (end := _LENGTH + _length(self._buffer)) <= len(self._buffer):
                message = bytes(self._buffer[_LENGTH:end])
                del self._buffer[:end]
                self._take(message)
            if end > _LENGTH + self._most:
                raise ValueError("a frame is too long")
        except Exception as error:
            _log.warning("a peer is not understood", extra={"error": type(error).__name__})
            self.transport.abort()

    def _take(self, message: bytes) -> None:
        if len(message) > self._most:
            raise ValueError("a frame is too long")
        self.received(message)


def _length(data: bytes | bytearray) -> int:
    # Of a length that is not all there yet, only that the frame is not either matters.
    if len(data) < _LENGTH:
        return _LENGTH
    return int.from_bytes(data[:_LENGTH], "little")


class Guard:
    """Lets processes of the suite in.

    Args:
        token: The suite's service token.
        scope: What a peer must be allowed to do.
    """

    def __init__(self, token: str, scope: str) -> None:
        self._expected = interceptors.authorization(token).encode()
        self._scope = scope

    def admit(self, message: bytes) -> dataplane_pb2.Welcome:
        """The answer to a first frame; its reason is empty when the peer is let in."""
        hello = dataplane_pb2.Hello.FromString(message)
        try:
            self._check(dict(hello.metadata))
        except DomainError as error:
            return dataplane_pb2.Welcome(error_reason=error.reason)
        return dataplane_pb2.Welcome()

    def _check(self, metadata: Mapping[str, str]) -> None:
        given = metadata.get("authorization", "").encode(errors="replace")
        if not hmac.compare_digest(given, self._expected):
            raise Unauthenticated("BAD_SERVICE_TOKEN", "the service token is missing or wrong")
        if not interceptors.caller_from(dict(metadata)).may(self._scope):
            raise PermissionDenied("SCOPE_MISSING", "a scope is missing", scope=self._scope)


def hello(settings: ServiceSettings) -> bytes:
    """The first frame of a process of the suite."""
    return dataplane_pb2.Hello(metadata=interceptors.identity(settings)).SerializeToString()


async def connect(
    address: str, make: Callable[[], FrameProtocol], settings: ServiceSettings
) -> None:
    """Open a connection; what `make` gives is told of everything else.

    Args:
        address: `host:port`.

    Raises:
        OSError: When nobody answers there, or not by TLS where it is needed.
    """
    host, port = transport.split_address(address)
    context = transport.client_tls(settings)
    name = host if context is not None else None
    await asyncio.get_running_loop().create_connection(
        make, host, port, ssl=context, server_hostname=name
    )


async def listen(
    host: str, make: Callable[[], FrameProtocol], settings: ServiceSettings, port: int = 0
) -> tuple[asyncio.Server, str]:
    """Listen, on any free port unless one is given; gives the server and its address.

    Raises:
        UnsafeAddressError: For an address beyond this machine without TLS.
        OSError: When it cannot be bound.
    """
    transport.require_safe(f"{host}:{port}", settings)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(make, host, port, ssl=transport.http_tls(settings))
    return server, f"{host}:{server.sockets[0].getsockname()[1]}"
