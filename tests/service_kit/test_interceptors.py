"""What happens around calls, seen by a client of a real server."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from opentelemetry import trace

from service_kit import context, errors, metrics, telemetry
from service_kit.context import Caller, current_caller
from service_kit.interceptors import Identity
from service_kit.server import ServiceServer
from tests.service_kit import echo

GOOD = {
    "authorization": f"Service {echo.TOKEN}",
    "modelyard-principal": "users/ada",
    "modelyard-scopes": "*",
}
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
CODE = grpc.StatusCode


@pytest.fixture(scope="module")
def service() -> echo.Echo:
    return echo.Echo()


@pytest.fixture(scope="module")
def stub(service: echo.Echo) -> Iterator[echo.EchoStub]:
    telemetry.configure(echo.SETTINGS)
    with (
        ServiceServer(echo.SETTINGS, [(echo.add_to_server, service)]) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        yield echo.EchoStub(channel)


@pytest.fixture
def answer(service: echo.Echo) -> Iterator[Callable[[Any], None]]:
    before = service.answer

    def become(function: Any) -> None:
        service.answer = function

    yield become
    service.answer = before


def metadata(**changes: str) -> tuple[tuple[str, str], ...]:
    named = {key.replace("_", "-"): value for key, value in changes.items()}
    return tuple((key, value) for key, value in (GOOD | named).items() if value)


# One call of each arity.
ARITIES: dict[str, Callable[[echo.EchoStub, str], list[str]]] = {
    "unary_unary": lambda stub, text: [
        stub.say(echo.said(text), timeout=5, metadata=metadata()).value
    ],
    "unary_stream": lambda stub, text: [
        each.value for each in stub.count(echo.said(text), timeout=5, metadata=metadata())
    ],
    "stream_unary": lambda stub, text: [
        stub.sum(iter([echo.said(text)]), timeout=5, metadata=metadata()).value
    ],
    "stream_stream": lambda stub, text: [
        each.value for each in stub.talk(iter([echo.said(text)]), timeout=5, metadata=metadata())
    ],
}


def details(error: grpc.RpcError) -> tuple[status_pb2.Status, Any, Any]:
    raw = dict(error.trailing_metadata())["grpc-status-details-bin"]
    status = status_pb2.Status.FromString(raw)
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    for each in status.details:
        if not each.Unpack(info):
            each.Unpack(bad)
    return status, info, bad


@pytest.mark.parametrize("arity", ARITIES)
def test_every_arity_passes(arity: str, stub: echo.EchoStub) -> None:
    assert ARITIES[arity](stub, "hello") == ["hello"]


@pytest.mark.parametrize("arity", ARITIES)
def test_domain_errors_become_rich_status(arity: str, stub: echo.EchoStub, answer: Any) -> None:
    def refuse(text: str, _: Any) -> str:
        raise errors.InvalidArgument("TOO_LOUD", "must be quiet", field="value", limit="3")

    answer(refuse)
    with pytest.raises(grpc.RpcError) as got:
        ARITIES[arity](stub, "x")
    status, info, bad = details(got.value)
    assert got.value.code() is CODE.INVALID_ARGUMENT
    assert (status.code, status.message) == (CODE.INVALID_ARGUMENT.value[0], "must be quiet")
    assert (info.reason, info.domain, dict(info.metadata)) == (
        "TOO_LOUD",
        "modelyard",
        {"limit": "3"},
    )
    assert [(v.field, v.description) for v in bad.field_violations] == [("value", "must be quiet")]


@pytest.mark.parametrize("arity", ARITIES)
def test_unknown_exceptions_are_logged_once_and_hidden(
    arity: str, stub: echo.EchoStub, answer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def crash(text: str, _: Any) -> str:
        raise RuntimeError("password=hunter2")

    answer(crash)
    with caplog.at_level(logging.INFO), pytest.raises(grpc.RpcError) as got:
        ARITIES[arity](stub, "x")
    assert (got.value.code(), got.value.details()) == (CODE.INTERNAL, "internal error")
    assert details(got.value)[1].reason == "INTERNAL"
    assert "hunter2" not in str(got.value.trailing_metadata())
    lines = [record for record in caplog.records if record.name.startswith(("service_kit", "grpc"))]
    assert [line.getMessage() for line in lines] == ["rpc failed"]
    assert lines[0].exc_info is not None


def test_a_handlers_own_abort_passes(stub: echo.EchoStub, answer: Any) -> None:
    answer(lambda _, context: context.abort(CODE.DATA_LOSS, "gone"))
    with pytest.raises(grpc.RpcError) as got:
        stub.say(echo.said("x"), timeout=5, metadata=metadata())
    assert (got.value.code(), got.value.details()) == (CODE.DATA_LOSS, "gone")


@pytest.mark.parametrize(
    ("changes", "method", "code", "reason"),
    [
        ({"authorization": ""}, "say", CODE.UNAUTHENTICATED, "BAD_SERVICE_TOKEN"),
        ({"authorization": "Service wrong"}, "say", CODE.UNAUTHENTICATED, "BAD_SERVICE_TOKEN"),
        ({"authorization": "Service "}, "say", CODE.UNAUTHENTICATED, "BAD_SERVICE_TOKEN"),
        ({"modelyard_principal": ""}, "say", CODE.UNAUTHENTICATED, "NO_PRINCIPAL"),
        ({"modelyard_scopes": ""}, "say", CODE.PERMISSION_DENIED, "SCOPE_MISSING"),
        ({"modelyard_scopes": "echo:read"}, "write", CODE.PERMISSION_DENIED, "SCOPE_MISSING"),
        ({"modelyard_scopes": "*:write"}, "say", CODE.PERMISSION_DENIED, "SCOPE_MISSING"),
        ({}, "secret", CODE.PERMISSION_DENIED, "SCOPE_UNDECLARED"),
    ],
)
def test_strangers_and_the_unentitled_are_refused(
    changes: dict[str, str],
    method: str,
    code: grpc.StatusCode,
    reason: str,
    stub: echo.EchoStub,
    service: echo.Echo,
) -> None:
    service.calls.clear()
    with pytest.raises(grpc.RpcError) as got:
        getattr(stub, method)(echo.said("x"), timeout=5, metadata=metadata(**changes))
    assert got.value.code() is code
    assert details(got.value)[1].reason == reason
    assert service.calls == []


@pytest.mark.parametrize("scopes", ["echo:read", "*:read", "echo:*", "other:write, echo:read"])
def test_the_handler_knows_its_caller(scopes: str, stub: echo.EchoStub, answer: Any) -> None:
    callers: list[Caller] = []
    answer(lambda text, _: callers.append(current_caller()) or text)
    stub.say(echo.said("x"), timeout=5, metadata=metadata(modelyard_scopes=scopes))
    assert callers[0].principal == "users/ada"
    assert callers[0].may("echo:read")


def test_the_handler_knows_what_time_is_left(stub: echo.EchoStub, answer: Any) -> None:
    answer(lambda *_: str(context.remaining()))
    given = stub.say(echo.said("x"), timeout=7, metadata=metadata())
    default = stub.say(echo.said("x"), metadata=metadata())
    stream = next(iter(stub.count(echo.said("x"), metadata=metadata())))
    # On the wire gRPC rounds a timeout up, by about a hundredth.
    assert 5 < float(given.value) <= 7.1
    assert 29 < float(default.value) <= 30
    assert stream.value == "inf"


def test_nothing_of_a_call_is_left_in_its_thread(stub: echo.EchoStub, answer: Any) -> None:
    left: list[float] = []
    answer(lambda text, _: left.append(context.remaining()) or text)
    for _ in range(40):  # more than there are threads
        stub.say(echo.said("x"), timeout=3, metadata=metadata())
    list(stub.count(echo.said("x"), metadata=metadata()))
    assert left[-1] == float("inf")
    with pytest.raises(errors.Unauthenticated):
        context.current_caller()


def test_a_stream_that_nobody_reads_on_is_closed(
    stub: echo.EchoStub, answer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    before = sample("rpc_total", method=f"/{echo.SERVICE}/Count", code="CANCELLED")
    go = threading.Event()
    answer(lambda text, _: text if text == "a" else go.wait(5) and text)
    with caplog.at_level(logging.WARNING):
        call = stub.count(echo.said("a b c d"), timeout=5, metadata=metadata())
        assert next(call).value == "a"
        call.cancel()
        go.set()
        end = time.monotonic() + 5
        while sample("rpc_total", method=f"/{echo.SERVICE}/Count", code="CANCELLED") == before:
            assert time.monotonic() < end
            time.sleep(0.01)
    assert caplog.records == []


def test_the_trace_of_the_caller_goes_on(stub: echo.EchoStub, answer: Any) -> None:
    answer(lambda *_: trace.format_trace_id(trace.get_current_span().get_span_context().trace_id))
    reply = stub.say(echo.said("x"), timeout=5, metadata=metadata(traceparent=TRACE))
    assert reply.value == TRACE.split("-")[1]


def test_calls_are_counted_by_method_and_code(stub: echo.EchoStub, answer: Any) -> None:
    labels = {"method": f"/{echo.SERVICE}/Say", "code": "NOT_FOUND"}
    before = sample("rpc_total", **labels)

    def lost(*_: Any) -> str:
        raise errors.NotFound("LOST", "not here")

    answer(lost)
    with pytest.raises(grpc.RpcError):
        stub.say(echo.said("x"), timeout=5, metadata=metadata())
    assert sample("rpc_total", **labels) == before + 1
    assert sample("rpc_seconds_count", **labels) == before + 1
    assert sample("rpc_in_flight") == 0


def sample(name: str, **labels: str) -> float:
    return metrics.REGISTRY.get_sample_value(f"modelyard_{name}", labels) or 0.0


def test_no_token_lets_nobody_in() -> None:
    with pytest.raises(ValueError, match="no service token"):
        Identity("")
