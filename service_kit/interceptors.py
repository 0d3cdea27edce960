"""What happens around every RPC of a service: telemetry, errors, deadline, identity.

Each concern is a context manager over a :class:`Call`; :func:`wrap` puts the stack of them around
a method handler of any of the four arities.
"""

from __future__ import annotations

import contextvars
import hmac
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Self

import grpc
from opentelemetry.trace import SpanKind

from service_kit import context, grpc_status, metrics, telemetry
from service_kit.errors import (
    DeadlineExceeded,
    DomainError,
    Internal,
    PermissionDenied,
    Unauthenticated,
)
from service_kit.methods import scope_of
from service_kit.settings import ServiceSettings

#: Seconds that a unary call may take when its caller sets no deadline.
DEFAULT_DEADLINE = 30.0

# gRPC reports a call without a deadline as one that ends in the far future.
_FAR_SECONDS = 10 * 365 * 86_400.0
_OUR_FAULT = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.DATA_LOSS,
)

_log = logging.getLogger(__name__)
_tracer = telemetry.tracer(__name__)
_calls = metrics.counter("rpc_total", "RPCs handled.", ("method", "code"))
_seconds = metrics.histogram("rpc_seconds", "Time in a handler.", ("method", "code"))
_in_flight = metrics.gauge("rpc_in_flight", "RPCs being handled now.")


@dataclass(slots=True)
class Call:
    """One RPC under way.

    Attributes:
        method: ``/package.Service/Method``.
        streaming: Whether either side sends a stream.
        context: What gRPC gives the handler.
        metadata: The caller's text metadata.
        failure: The domain error that ended it.
        fault: The exception nobody expected that ended it.
    """

    method: str
    streaming: bool
    context: grpc.ServicerContext
    metadata: dict[str, str] = field(default_factory=dict)
    failure: DomainError | None = None
    fault: Exception | None = None


Around = Callable[[Call], AbstractContextManager[None]]


def guard(service_token: str) -> Around:
    """The whole stack that a service of the suite puts around its methods."""
    identity = Identity(service_token)

    @contextmanager
    def around(call: Call) -> Iterator[None]:
        with observed(call), translated(call), bounded(call), identity(call):
            yield

    return around


@contextmanager
def observed(call: Call) -> Iterator[None]:
    """Continue the caller's trace, count and time the call, log its failure once."""
    started = time.perf_counter()
    left = False
    _in_flight.inc()
    with _tracer.start_as_current_span(
        call.method.lstrip("/"),
        context=telemetry.extract(call.metadata),
        kind=SpanKind.SERVER,
        record_exception=False,
        set_status_on_exception=False,
    ) as span:
        try:
            yield
        except GeneratorExit:
            left = True
            raise
        finally:
            _in_flight.dec()
            code = grpc.StatusCode.CANCELLED if left else _code(call)
            span.set_attribute("rpc.grpc.status_code", code.value[0])
            _calls.labels(call.method, code.name).inc()
            _seconds.labels(call.method, code.name).observe(time.perf_counter() - started)
            _log_failure(call, code)


@contextmanager
def translated(call: Call) -> Iterator[None]:
    """End the call with a rich status when the handler raises; its text stays in our logs."""
    try:
        yield
    except DomainError as error:
        call.failure = error
        call.context.abort_with_status(grpc_status.abort_status(error))
    except Exception as error:
        if _is_abort(call, error) or _caller_left(call, error):
            raise
        call.fault = error
        hidden = Internal("INTERNAL", "internal error")
        call.context.abort_with_status(grpc_status.abort_status(hidden))


@contextmanager
def bounded(call: Call) -> Iterator[None]:
    """Make the caller's deadline known to the handler; unary calls without one get a default."""
    given: float | None = call.context.time_remaining()
    if given is None or given > _FAR_SECONDS:
        given = math.inf if call.streaming else DEFAULT_DEADLINE
    if given <= 0:
        raise DeadlineExceeded("DEADLINE_EXCEEDED", "the deadline passed before the call began")
    with context.deadline(given):
        yield


class Identity:
    """Lets calls in from processes of the suite, on behalf of callers who may do this."""

    def __init__(self, service_token: str) -> None:
        if not service_token:
            raise ValueError("no service token: set MODELYARD_SERVICE_TOKEN or make suite keys")
        self._expected = authorization(service_token).encode()

    @classmethod
    def of(cls, settings: ServiceSettings) -> Self:
        """For the suite that these settings belong to."""
        return cls(settings.service_token.get_secret_value())

    def caller(self, metadata: Mapping[str, str]) -> context.Caller:
        """Whom a process of the suite calls for.

        Raises:
            Unauthenticated: ``BAD_SERVICE_TOKEN`` or ``NO_PRINCIPAL``.
        """
        given = metadata.get("authorization", "").encode(errors="replace")
        if not hmac.compare_digest(given, self._expected):
            raise Unauthenticated("BAD_SERVICE_TOKEN", "the service token is missing or wrong")
        return caller_from(metadata)

    @contextmanager
    def __call__(self, call: Call) -> Iterator[None]:
        """Check who calls and what they may do, then run the call as them."""
        caller = self.caller(call.metadata)
        scope = scope_of(call.method)
        if not scope:
            raise PermissionDenied("SCOPE_UNDECLARED", "the method declares no scope")
        if not caller.may(scope):
            raise PermissionDenied("SCOPE_MISSING", "a scope is missing", scope=scope)
        with context.acting_as(caller):
            yield


def authorization(service_token: str) -> str:
    """The value of the ``authorization`` metadata between processes of the suite."""
    return f"Service {service_token}"


def identity(settings: ServiceSettings) -> dict[str, str]:
    """The metadata by which a process of the suite says who it is."""
    return {
        "authorization": authorization(settings.service_token.get_secret_value()),
        "modelyard-principal": f"services/{settings.service}",
        "modelyard-scopes": "*",
    }


def caller_from(metadata: Mapping[str, str]) -> context.Caller:
    """The caller that a process of the suite names in its metadata.

    Raises:
        Unauthenticated: ``NO_PRINCIPAL``.
    """
    principal = metadata.get("modelyard-principal", "")
    if not principal:
        raise Unauthenticated("NO_PRINCIPAL", "the call names no principal")
    scopes = metadata.get("modelyard-scopes", "").replace(",", " ").split()
    return context.Caller(principal=principal, scopes=frozenset(scopes))


def wrap(method: str, handler: grpc.RpcMethodHandler, around: Around) -> grpc.RpcMethodHandler:
    """A handler that does the same with a context manager around each call.

    Each call runs in a copy of the thread's context variables, so that nothing of it is left
    behind, wherever a stream that nobody reads to its end is thrown away.
    """
    streaming = handler.request_streaming or handler.response_streaming
    behavior = _behavior(handler)

    def start(servicer_context: grpc.ServicerContext) -> Call:
        pairs = servicer_context.invocation_metadata() or ()
        metadata = {key: value for key, value in pairs if isinstance(value, str)}
        return Call(method, streaming, servicer_context, metadata)

    def single(request: Any, servicer_context: grpc.ServicerContext) -> Any:
        with around(start(servicer_context)):
            return behavior(request, servicer_context)

    def several(request: Any, servicer_context: grpc.ServicerContext) -> Iterator[Any]:
        with around(start(servicer_context)):
            yield from behavior(request, servicer_context)

    def in_own_context(request: Any, servicer_context: grpc.ServicerContext) -> Any:
        return contextvars.copy_context().run(single, request, servicer_context)

    def stream_in_own_context(request: Any, servicer_context: grpc.ServicerContext) -> Any:
        return _run_stream(several(request, servicer_context))

    return _handler_like(
        handler, stream_in_own_context if handler.response_streaming else in_own_context
    )


def _run_stream(responses: Iterator[Any]) -> Iterator[Any]:
    own = contextvars.copy_context()
    ended = object()
    try:
        while (response := own.run(next, responses, ended)) is not ended:
            yield response
    finally:
        close: Callable[[], None] = responses.close  # type: ignore[attr-defined]
        own.run(close)


def _behavior(handler: grpc.RpcMethodHandler) -> Callable[[Any, Any], Any]:
    behavior: Callable[[Any, Any], Any] = (
        handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
    )
    return behavior


def _handler_like(
    handler: grpc.RpcMethodHandler, behavior: Callable[[Any, Any], Any]
) -> grpc.RpcMethodHandler:
    makers = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }
    make = makers[bool(handler.request_streaming), bool(handler.response_streaming)]
    return make(behavior, handler.request_deserializer, handler.response_serializer)


def _code(call: Call) -> grpc.StatusCode:
    code = call.context.code()
    if code is None:
        return grpc.StatusCode.OK if call.context.is_active() else grpc.StatusCode.CANCELLED
    return code if isinstance(code, grpc.StatusCode) else grpc.StatusCode.UNKNOWN


def _is_abort(call: Call, error: Exception) -> bool:
    # ``context.abort`` sets the code, then raises an Exception without a word.
    return type(error) is Exception and not error.args and call.context.code() is not None


def _caller_left(call: Call, error: Exception) -> bool:
    # Reading the request stream of a caller who has left raises an RpcError that gRPC knows.
    return isinstance(error, grpc.RpcError) and not call.context.is_active()


def _log_failure(call: Call, code: grpc.StatusCode) -> None:
    facts = {"method": call.method, "code": code.name}
    if call.fault is not None:
        _log.error("rpc failed", exc_info=call.fault, extra=facts | {"reason": "INTERNAL"})
    elif code not in (grpc.StatusCode.OK, grpc.StatusCode.CANCELLED):
        reason = call.failure.reason if call.failure else ""
        level = logging.WARNING if code in _OUR_FAULT else logging.INFO
        _log.log(level, "rpc refused", extra=facts | {"reason": reason})
