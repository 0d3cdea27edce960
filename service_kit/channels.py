"""Calls to other services: always with a deadline, an identity and the present trace."""

from __future__ import annotations

import importlib
import math
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple, Self

import grpc
import grpc.aio
import orjson

from service_kit import context, interceptors, telemetry, transport
from service_kit.errors import DeadlineExceeded, FailedPrecondition
from service_kit.grpc_status import error_from_rpc
from service_kit.methods import repeatable_methods
from service_kit.settings import ServiceSettings

__all__ = ["Peers", "calling", "error_from_rpc", "open_aio_channel", "open_channel"]

#: Seconds that a call may take when its caller says nothing and is under no deadline itself.
DEFAULT_DEADLINE = 10.0
#: The same for a call that sends a stream and gets one answer (an upload).
UPLOAD_DEADLINE = 300.0

_RETRIES = {
    "maxAttempts": 3,
    "initialBackoff": "0.05s",
    "maxBackoff": "1s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"],
}
# Each failure costs a token and each success gives back a tenth; below half there are no
# retries: in the long run one retry in ten calls.
_RETRY_BUDGET = {"maxTokens": 10, "tokenRatio": 0.1}


def open_channel(target: str, settings: ServiceSettings) -> grpc.Channel:
    """A channel to another process of the suite, for synchronous code.

    Unary calls end after 10 s, uploads after 300 s and streams of answers never, unless the
    caller gives a ``timeout``; no call outlives the deadline of the handler that makes it.
    Methods with an ``idempotency_level`` are retried on ``UNAVAILABLE``, when their generated
    modules were imported before.

    Raises:
        UnsafeAddressError: For a target beyond this machine without TLS.
    """
    transport.require_safe(target, settings)
    credentials = None if transport.is_unix(target) else transport.channel_credentials(settings)
    if credentials is None:
        channel = grpc.insecure_channel(target, options=channel_options())
    else:
        channel = grpc.secure_channel(target, credentials, options=channel_options())
    return grpc.intercept_channel(channel, _SyncInterceptor(_Preparation(settings)))


def open_aio_channel(target: str, settings: ServiceSettings) -> grpc.aio.Channel:
    """A channel like :func:`open_channel`'s, for asyncio code."""
    transport.require_safe(target, settings)
    preparation = _Preparation(settings)
    options: dict[str, Any] = {
        "options": channel_options(),
        "interceptors": [kind(preparation) for kind in _AIO_INTERCEPTORS],
    }
    credentials = None if transport.is_unix(target) else transport.channel_credentials(settings)
    if credentials is None:
        return grpc.aio.insecure_channel(target, **options)
    return grpc.aio.secure_channel(target, credentials, **options)


class Peers:
    """Channels to the other services by area, opened when first asked for."""

    def __init__(self, settings: ServiceSettings) -> None:
        self._settings = settings
        self._channels: dict[str, grpc.Channel] = {}
        self._lock = threading.Lock()

    def channel(self, area: str) -> grpc.Channel:
        """The channel to the service of an area, e.g. ``registry``.

        Raises:
            FailedPrecondition: ``PEER_NOT_CONFIGURED`` when the settings give no address.
        """
        with self._lock:
            if area not in self._channels:
                self._channels[area] = self._open(area)
            return self._channels[area]

    def close(self) -> None:
        """Close all channels; calls under way are cancelled."""
        with self._lock:
            for channel in self._channels.values():
                channel.close()
            self._channels.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self, area: str) -> grpc.Channel:
        target = self._settings.peers.get(area)
        if not target:
            raise FailedPrecondition(
                "PEER_NOT_CONFIGURED", f"MODELYARD_PEERS has no address for {area}", peer=area
            )
        # The retries of a channel are fixed when it opens, from the contracts loaded by then.
        with suppress(ModuleNotFoundError):
            importlib.import_module(f"modelyard.{area}.v1.{area}_pb2")
        return open_channel(target, self._settings)


@contextmanager
def calling(area: str) -> Iterator[None]:
    """Turn what a stub raises into the domain error that the peer raised.

    >>> import grpc
    >>> from service_kit.errors import DomainError
    >>> try:
    ...     with calling("registry"):
    ...         raise grpc.RpcError
    ... except DomainError as error:
    ...     error.reason
    'PEER_UNKNOWN'
    """
    try:
        yield
    except grpc.RpcError as error:
        raise error_from_rpc(error, area) from error


def channel_options() -> tuple[tuple[str, int | str], ...]:
    """Options of every channel of the suite, with the retries of the contracts loaded so far."""
    return (
        *transport.OPTIONS,
        ("grpc.enable_http_proxy", 0),
        ("grpc.enable_retries", 1),
        ("grpc.service_config", service_config()),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 2_000),
    )


def service_config() -> str:
    """gRPC's service config, as JSON: retries for repeatable methods, within a budget of 10 %."""
    names = [{"service": service, "method": method} for service, method in repeatable_methods()]
    config: dict[str, Any] = {"retryThrottling": _RETRY_BUDGET}
    if names:
        config["methodConfig"] = [{"name": names, "retryPolicy": _RETRIES}]
    return orjson.dumps(config).decode()


class _Details(NamedTuple):
    """``grpc.ClientCallDetails``; the asyncio classes read the same fields."""

    method: Any
    timeout: float | None
    metadata: Any
    credentials: Any
    wait_for_ready: bool | None
    compression: Any = None


class _Preparation:
    """What every call gets: a deadline, the service's identity, the present trace."""

    def __init__(self, settings: ServiceSettings) -> None:
        self._identity = interceptors.identity(settings)

    def timeout(self, given: float | None, default: float) -> float | None:
        """Seconds for a call.

        Raises:
            DeadlineExceeded: When the present handler has none left.
        """
        left = context.remaining()
        if left <= 0:
            raise DeadlineExceeded("DEADLINE_EXCEEDED", "no time is left for a further call")
        seconds = min(left, default if given is None else given)
        return None if math.isinf(seconds) else seconds

    def headers(self, given: Any) -> list[tuple[str, Any]]:
        """The metadata of a call; what its caller gave (as the gateway does) takes precedence."""
        headers: list[tuple[str, Any]] = [(key, value) for key, value in given or ()]
        present = {key for key, _ in headers}
        ours = self._identity | telemetry.inject_headers()
        headers.extend((key, value) for key, value in ours.items() if key not in present)
        return headers


class _SyncInterceptor(
    grpc.UnaryUnaryClientInterceptor,  # type: ignore[misc]
    grpc.UnaryStreamClientInterceptor,  # type: ignore[misc]
    grpc.StreamUnaryClientInterceptor,  # type: ignore[misc]
    grpc.StreamStreamClientInterceptor,  # type: ignore[misc]
):
    def __init__(self, preparation: _Preparation) -> None:
        self._preparation = preparation

    def intercept_unary_unary(self, proceed: Any, details: Any, request: Any) -> Any:
        return proceed(self._prepared(details, DEFAULT_DEADLINE), request)

    def intercept_unary_stream(self, proceed: Any, details: Any, request: Any) -> Any:
        return proceed(self._prepared(details, math.inf), request)

    def intercept_stream_unary(self, proceed: Any, details: Any, requests: Any) -> Any:
        return proceed(self._prepared(details, UPLOAD_DEADLINE), requests)

    def intercept_stream_stream(self, proceed: Any, details: Any, requests: Any) -> Any:
        return proceed(self._prepared(details, math.inf), requests)

    def _prepared(self, details: Any, default: float) -> _Details:
        return _Details(
            method=details.method,
            timeout=self._preparation.timeout(details.timeout, default),
            metadata=self._preparation.headers(details.metadata),
            credentials=details.credentials,
            wait_for_ready=details.wait_for_ready,
            compression=details.compression,
        )


class _AioInterceptor:
    default = math.inf

    def __init__(self, preparation: _Preparation) -> None:
        self._preparation = preparation

    def prepared(self, details: Any) -> grpc.aio.ClientCallDetails:
        return grpc.aio.ClientCallDetails(
            method=details.method,
            timeout=self._preparation.timeout(details.timeout, self.default),
            metadata=grpc.aio.Metadata(*self._preparation.headers(details.metadata)),
            credentials=details.credentials,
            wait_for_ready=details.wait_for_ready,
        )


_Proceed = Callable[[Any, Any], Awaitable[Any]]


class _AioUnaryUnary(_AioInterceptor, grpc.aio.UnaryUnaryClientInterceptor):  # type: ignore[misc]
    default = DEFAULT_DEADLINE

    async def intercept_unary_unary(self, proceed: _Proceed, details: Any, request: Any) -> Any:
        return await proceed(self.prepared(details), request)


class _AioUnaryStream(_AioInterceptor, grpc.aio.UnaryStreamClientInterceptor):  # type: ignore[misc]
    async def intercept_unary_stream(self, proceed: _Proceed, details: Any, request: Any) -> Any:
        return await proceed(self.prepared(details), request)


class _AioStreamUnary(_AioInterceptor, grpc.aio.StreamUnaryClientInterceptor):  # type: ignore[misc]
    default = UPLOAD_DEADLINE

    async def intercept_stream_unary(self, proceed: _Proceed, details: Any, requests: Any) -> Any:
        return await proceed(self.prepared(details), requests)


class _AioStreamStream(
    _AioInterceptor,
    grpc.aio.StreamStreamClientInterceptor,  # type: ignore[misc]
):
    async def intercept_stream_stream(self, proceed: _Proceed, details: Any, requests: Any) -> Any:
        return await proceed(self.prepared(details), requests)


_AIO_INTERCEPTORS = (_AioUnaryUnary, _AioUnaryStream, _AioStreamUnary, _AioStreamStream)
