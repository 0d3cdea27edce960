"""The door of the gateway's own gRPC port: API keys, scopes, errors.

What the contracts call internal is for processes of the suite alone, who show its token.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import grpc

from gateway.access.service import Door, key_of, require_scope
from gateway.http import DEFAULT_DEADLINE_S, LONGEST_DEADLINE_S
from service_kit import grpc_status, metrics, telemetry
from service_kit.context import Caller
from service_kit.errors import DomainError, Internal
from service_kit.interceptors import Identity
from service_kit.methods import is_internal, scope_of

#: Calls that anybody who reaches the port may make, as probes expect.
_OPEN = (
    "/grpc.health.v1.",
    "/grpc.reflection.",
    "/inference.GRPCInferenceService/Server",
)
#: Methods of the Open Inference Protocol carry no options of ours.
_PREDICT = "serving:predict"
_V2 = "/inference.GRPCInferenceService/"

_log = logging.getLogger(__name__)
_tracer = telemetry.tracer(__name__)
_total = metrics.counter("grpc_requests_total", "gRPC requests.", ("method", "code"))
_seconds = metrics.histogram("grpc_request_seconds", "Time to the answer.", ("method",))


class DoorInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Lets calls in whose key holds the method's scope, and makes statuses of errors.

    Args:
        door: Knows the keys.
        suite: Knows the processes of the suite.
    """

    def __init__(self, door: Door, suite: Identity) -> None:
        self._door = door
        self._suite = suite

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], details: Any
    ) -> Any:
        """Called by gRPC for each call."""
        handler = await continuation(details)
        method = details.method
        if handler is None or method.startswith(_OPEN):
            return handler
        if not handler.unary_unary:
            return grpc.stream_stream_rpc_method_handler(_refuse)
        metadata = dict(details.invocation_metadata or ())

        async def guarded(request: Any, context: grpc.aio.ServicerContext) -> Any:
            return await self._guarded(handler.unary_unary, method, metadata, request, context)

        return grpc.unary_unary_rpc_method_handler(
            guarded, handler.request_deserializer, handler.response_serializer
        )

    async def _guarded(
        self,
        behavior: Callable[[Any, Any], Awaitable[Any]],
        method: str,
        metadata: Mapping[str, Any],
        request: Any,
        context: grpc.aio.ServicerContext,
    ) -> Any:
        started = time.perf_counter()
        failure: DomainError | None = None
        answer: Any = None
        with _tracer.start_as_current_span(
            method.lstrip("/"), context=telemetry.extract(_texts(metadata))
        ):
            try:
                caller = await self._caller(method, metadata)
                require_scope(caller, _PREDICT if method.startswith(_V2) else scope_of(method))
                answer = await behavior(request, context)
            except DomainError as error:
                failure = error
            except Exception:
                _log.exception("rpc failed", extra={"method": method})
                failure = Internal("INTERNAL", "internal error")
        code = grpc_status.code_of(failure).name if failure else "OK"
        _total.labels(method, code).inc()
        _seconds.labels(method).observe(time.perf_counter() - started)
        if failure is not None:
            await _abort(context, failure)
        return answer

    async def _caller(self, method: str, metadata: Mapping[str, Any]) -> Caller:
        if is_internal(method):
            return self._suite.caller(_texts(metadata))
        key = key_of(_text(metadata, "authorization"), _text(metadata, "x-api-key"))
        return await self._door.caller(key)


async def _refuse(_: Any, context: grpc.aio.ServicerContext) -> None:
    # No streaming method but the open ones is offered here, whoever asks.
    await context.abort(grpc.StatusCode.UNIMPLEMENTED, "STREAMING_NOT_OFFERED")


async def _abort(context: grpc.aio.ServicerContext, error: DomainError) -> None:
    status = grpc_status.abort_status(error)
    await context.abort(status.code, status.details, status.trailing_metadata)


def time_left(context: grpc.aio.ServicerContext) -> tuple[float, float]:
    """When a call began (monotonic) and the seconds that its caller gives."""
    left = context.time_remaining()
    limit = DEFAULT_DEADLINE_S if left is None or left > LONGEST_DEADLINE_S else max(left, 0.0)
    return time.monotonic(), limit


def metadata_value(context: grpc.aio.ServicerContext, name: bytes) -> bytes:
    """The value that a call's metadata have under a name in lower case, or nothing."""
    wanted = name.decode()
    for key, value in context.invocation_metadata() or ():
        if key == wanted:
            return value.encode() if isinstance(value, str) else bytes(value)
    return b""


def _text(metadata: Mapping[str, Any], name: str) -> str:
    value = metadata.get(name, "")
    return value if isinstance(value, str) else ""


def _texts(metadata: Mapping[str, Any]) -> dict[str, str]:
    return {key: value for key, value in metadata.items() if isinstance(value, str)}
