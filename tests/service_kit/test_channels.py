"""Calls from one process of the suite to another."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from service_kit import channels, context, errors, telemetry
from service_kit.channels import Peers, calling, open_aio_channel, open_channel
from service_kit.context import Caller, current_caller
from service_kit.security import ensure_suite_keys
from service_kit.server import ServiceServer
from service_kit.settings import ServiceSettings
from service_kit.transport import UnsafeAddressError
from tests.service_kit import echo


@pytest.fixture
def service() -> echo.Echo:
    return echo.Echo()


@pytest.fixture
def server(service: echo.Echo) -> Iterator[ServiceServer]:
    with ServiceServer(echo.SETTINGS, [(echo.add_to_server, service)]) as server:
        yield server


@pytest.fixture
def stub(server: ServiceServer) -> Iterator[echo.EchoStub]:
    with open_channel(server.address, echo.SETTINGS) as channel:
        yield echo.EchoStub(channel)


def test_calls_carry_identity_deadline_and_trace(stub: echo.EchoStub, service: echo.Echo) -> None:
    telemetry.configure(echo.SETTINGS)
    seen: list[tuple[Caller, float, str]] = []
    service.answer = lambda text, _: (
        seen.append((current_caller(), context.remaining(), telemetry.trace_ids()[0])) or text
    )
    with telemetry.tracer(__name__).start_as_current_span("test"):
        here = telemetry.trace_ids()[0]
        stub.say(echo.said("x"))
    caller, left, there = seen[0]
    assert caller == Caller("services/echo", frozenset({"*"}))
    assert 9 < left <= 10.2
    assert there == here != ""


def test_every_arity_gets_an_identity(stub: echo.EchoStub) -> None:
    assert stub.write(echo.said("a")).value == "a"
    assert [each.value for each in stub.count(echo.said("a b"))] == ["a", "b"]
    assert stub.sum(iter([echo.said("a"), echo.said("b")])).value == "a b"
    assert [each.value for each in stub.talk(iter([echo.said("a")]))] == ["a"]


def test_a_callers_own_metadata_takes_precedence(stub: echo.EchoStub, service: echo.Echo) -> None:
    service.answer = lambda *_: current_caller().principal
    metadata = (("modelyard-principal", "users/ada"), ("modelyard-scopes", "echo:read"))
    assert stub.say(echo.said("x"), metadata=metadata).value == "users/ada"
    with pytest.raises(errors.PermissionDenied), calling("echo"):
        stub.write(echo.said("x"), metadata=metadata)


def test_no_call_outlives_the_handler_that_makes_it(
    stub: echo.EchoStub, service: echo.Echo
) -> None:
    service.answer = lambda *_: str(context.remaining())
    with context.deadline(2.0):
        assert float(stub.say(echo.said("x"), timeout=60).value) <= 2.1
        assert float(next(iter(stub.count(echo.said("x")))).value) <= 2.1
    with context.deadline(0.0), pytest.raises(errors.DeadlineExceeded):
        stub.say(echo.said("x"))


@pytest.mark.parametrize(("method", "tries"), [("say", 3), ("write", 1)])
def test_only_repeatable_methods_are_retried(
    method: str, tries: int, stub: echo.EchoStub, service: echo.Echo
) -> None:
    def away(*_: Any) -> str:
        raise errors.Unavailable("BUSY", "come again")

    service.answer = away
    with pytest.raises(errors.Unavailable) as got, calling("echo"):
        getattr(stub, method)(echo.said("x"))
    assert got.value.reason == "BUSY"
    assert len(service.calls) == tries


def test_retries_have_a_budget(stub: echo.EchoStub, service: echo.Echo) -> None:
    def away(*_: Any) -> str:
        raise errors.Unavailable("BUSY", "come again")

    service.answer = away
    for _ in range(20):
        with pytest.raises(errors.Unavailable), calling("echo"):
            stub.say(echo.said("x"))
    assert 20 < len(service.calls) <= 20 + 5


def test_a_refused_connection_is_unavailable() -> None:
    with (
        open_channel("127.0.0.1:1", echo.SETTINGS) as channel,
        pytest.raises(errors.Unavailable) as got,
        calling("registry"),
    ):
        echo.EchoStub(channel).write(echo.said("x"))
    assert got.value.reason == "PEER_UNAVAILABLE"
    assert "127.0.0.1" not in got.value.message


def test_a_passed_deadline_is_one(stub: echo.EchoStub, service: echo.Echo) -> None:
    import threading

    go = threading.Event()
    service.answer = lambda *_: str(go.wait(5))
    try:
        with pytest.raises(errors.DeadlineExceeded), calling("echo"):
            stub.say(echo.said("x"), timeout=0.1)
    finally:
        go.set()


def test_a_channel_beyond_this_machine_needs_tls() -> None:
    for opener in (open_channel, open_aio_channel):
        with pytest.raises(UnsafeAddressError):
            opener("registry.example:8101", echo.SETTINGS)


def test_peers_opens_each_channel_once(server: ServiceServer) -> None:
    settings = echo.SETTINGS.model_copy(update={"peers": {"registry": server.address}})
    with Peers(settings) as peers:
        assert peers.channel("registry") is peers.channel("registry")
        assert echo.EchoStub(peers.channel("registry")).say(echo.said("x")).value == "x"
        with pytest.raises(errors.FailedPrecondition, match="features"):
            peers.channel("features")


def test_service_config_names_only_repeatable_methods() -> None:
    (config,) = json.loads(channels.service_config())["methodConfig"]
    methods = {each["method"] for each in config["name"] if each["service"] == echo.SERVICE}
    assert methods == {"Say"}


@pytest.fixture
def tls(tmp_path: Any) -> ServiceSettings:
    keys = ensure_suite_keys(tmp_path)
    return ServiceSettings(
        service="echo",
        home=tmp_path,
        tls_cert=keys.tls_cert,
        tls_key=keys.tls_key,
        tls_ca=keys.ca_cert,
    )


def test_with_tls_both_sides_show_certificates(tls: ServiceSettings) -> None:
    settings = tls.model_copy(update={"listen": "0.0.0.0:0"})
    with ServiceServer(settings, [(echo.add_to_server, echo.Echo())]) as server:
        target = server.address.replace("0.0.0.0", "localhost")
        with open_channel(target, tls) as channel:
            assert echo.EchoStub(channel).say(echo.said("x")).value == "x"
        without = grpc.ssl_channel_credentials(tls.tls_ca.read_bytes() if tls.tls_ca else b"")
        with (
            grpc.secure_channel(target, without) as channel,
            pytest.raises(grpc.RpcError) as got,
        ):
            echo.EchoStub(channel).say(echo.said("x"), timeout=2)
    assert got.value.code() is grpc.StatusCode.UNAVAILABLE


def test_asyncio_channels_do_the_same(server: ServiceServer, service: echo.Echo) -> None:
    def answer(text: str, _: Any) -> str:
        if text == "bad":
            raise errors.Conflict("STALE", "read again", field="etag")
        return f"{text} {current_caller().principal} {about(context.remaining())}"

    service.answer = answer

    async def talk() -> list[str]:
        async with open_aio_channel(server.address, echo.SETTINGS) as channel:
            stub = echo.EchoStub(channel)
            answers = [(await stub.say(echo.said("a"))).value]
            answers += [each.value async for each in stub.count(echo.said("b"))]
            answers.append((await stub.sum(iter([echo.said("c")]))).value)
            answers += [each.value async for each in stub.talk(iter([echo.said("d")]))]
            with pytest.raises(errors.Conflict) as got, calling("echo"):
                await stub.write(echo.said("bad"))
            assert (got.value.reason, got.value.field) == ("STALE", "etag")
            return answers

    me = "services/echo"
    assert asyncio.run(talk()) == [f"a {me} 10", f"b {me} inf", f"c {me} 300", f"d {me} inf"]


def about(seconds: float) -> str:
    # On the wire gRPC rounds a timeout up, by about a hundredth.
    close = [given for given in (10, 300) if 0.9 * given < seconds <= 1.02 * given]
    return str(close[0] if close else seconds)


def test_asyncio_retries_repeatable_methods(server: ServiceServer, service: echo.Echo) -> None:
    def busy_once(text: str, _: Any) -> str:
        if len(service.calls) == 1:
            raise errors.Unavailable("BUSY", "come again")
        return text

    service.answer = busy_once

    async def call() -> str:
        async with open_aio_channel(server.address, echo.SETTINGS) as channel:
            reply = await echo.EchoStub(channel).say(echo.said("x"))
            return str(reply.value)

    assert asyncio.run(call()) == "x"
    assert len(service.calls) == 2
