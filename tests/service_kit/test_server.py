"""A real server on a loopback port."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from service_kit import metrics
from service_kit.server import ServiceServer
from service_kit.transport import UnsafeAddressError
from tests.service_kit import echo

UP = health_pb2.HealthCheckResponse.SERVING
DOWN = health_pb2.HealthCheckResponse.NOT_SERVING


@contextmanager
def health_of(server: ServiceServer) -> Iterator[health_pb2_grpc.HealthStub]:
    with grpc.insecure_channel(server.address) as channel:
        yield health_pb2_grpc.HealthStub(channel)


def health(server: ServiceServer, service: str = "") -> int:
    with health_of(server) as stub:
        return stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=5).status


def get(server: ServiceServer, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(server.metrics_address, timeout=5)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def until(condition: Any, seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.01)


def test_start_serves_health_per_service_and_overall() -> None:
    with ServiceServer(echo.SETTINGS, [(echo.add_to_server, echo.Echo())]) as server:
        assert health(server) == UP
        assert health(server, echo.SERVICE) == UP


def test_readiness_names_each_dependency_and_follows_it() -> None:
    away = threading.Event()
    away.set()

    def database() -> None:
        if away.is_set():
            raise ConnectionError("postgresql://user:password@host")

    server = ServiceServer(echo.SETTINGS, ready={"database": database, "cache": lambda: None})
    with server:
        status, body = get(server, "/readyz")
        report = json.loads(body)
        assert (status, report["status"]) == (503, "not ready")
        assert report["dependencies"]["database"] == {"ok": False, "error": "ConnectionError"}
        assert report["dependencies"]["cache"]["ok"] is True
        assert b"password" not in body
        assert health(server) == DOWN
        assert get(server, "/healthz")[0] == 200
        away.clear()
        until(lambda: get(server, "/readyz")[0] == 200)
        assert health(server) == UP


def test_before_open_it_answers_not_serving_and_starting() -> None:
    server = ServiceServer(echo.SETTINGS)
    server.bind()
    try:
        assert health(server) == DOWN
        assert json.loads(get(server, "/readyz")[1])["status"] == "starting"
        with (
            grpc.insecure_channel(server.address) as channel,
            pytest.raises(grpc.RpcError) as got,
        ):
            echo.EchoStub(channel).say(echo.said("x"), timeout=5)
        assert got.value.code() is grpc.StatusCode.UNAVAILABLE
        assert got.value.details() == "the service is still starting"
    finally:
        server.stop(grace=0)


def test_services_may_be_added_after_bind() -> None:
    server = ServiceServer(echo.SETTINGS)
    server.bind()
    try:
        server.add(echo.add_to_server, echo.Echo())
        server.open()
        assert health(server, echo.SERVICE) == UP
    finally:
        server.stop(grace=0)


def test_health_can_be_watched() -> None:
    server = ServiceServer(echo.SETTINGS)
    server.bind()
    try:
        with health_of(server) as stub:
            changes = stub.Watch(health_pb2.HealthCheckRequest(), timeout=5)
            assert next(changes).status == DOWN
            server.open()
            assert next(changes).status == UP
            changes.cancel()
    finally:
        server.stop(grace=0)


def test_reflection_lists_the_services() -> None:
    with (
        ServiceServer(echo.SETTINGS, [(echo.add_to_server, echo.Echo())]) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        ask = reflection_pb2.ServerReflectionRequest(list_services="")
        answer = next(iter(stub.ServerReflectionInfo(iter([ask]), timeout=5)))
    names = {service.name for service in answer.list_services_response.service}
    assert {echo.SERVICE, "grpc.health.v1.Health"} <= names


def test_metrics_page_shows_our_registry_only() -> None:
    metrics.counter("kit_test_total", "For this test.").inc(3)
    with ServiceServer(echo.SETTINGS) as server:
        status, body = get(server, "/metrics")
        assert get(server, "/elsewhere")[0] == 404
    assert status == 200
    assert b"modelyard_kit_test_total 3.0" in body
    assert b"process_resident_memory_bytes" in body


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0", "example.org:8101", "10.1.2.3:1"])
@pytest.mark.parametrize("setting", ["listen", "metrics_listen"])
def test_no_address_beyond_this_machine_without_tls(setting: str, listen: str) -> None:
    settings = echo.SETTINGS.model_copy(update={setting: listen})
    with pytest.raises(UnsafeAddressError, match="TLS"):
        ServiceServer(settings).start()


def test_a_unix_socket_is_for_its_owner_only(tmp_path: Path) -> None:
    settings = echo.SETTINGS.model_copy(update={"listen": f"unix:{tmp_path}/kit.sock"})
    with ServiceServer(settings) as server:
        assert server.address == f"unix:{tmp_path}/kit.sock"
        assert (tmp_path / "kit.sock").stat().st_mode & 0o777 == 0o600
        assert health(server) == UP


def test_a_taken_port_is_an_error() -> None:
    with ServiceServer(echo.SETTINGS) as server:
        settings = echo.SETTINGS.model_copy(update={"listen": server.address})
        with pytest.raises(OSError, match="cannot listen"):
            ServiceServer(settings).start()


def test_without_a_token_there_is_no_server() -> None:
    settings = echo.SETTINGS.model_copy(
        update={"service_token": type(echo.SETTINGS.service_token)("")}
    )
    with pytest.raises(ValueError, match="token"):
        ServiceServer(settings)


def test_stop_lets_calls_finish_and_refuses_new_ones() -> None:
    entered, go = threading.Event(), threading.Event()

    def slow(text: str, _: grpc.ServicerContext) -> str:
        entered.set()
        go.wait(5)
        return text

    server = ServiceServer(echo.SETTINGS, [(echo.add_to_server, echo.Echo(slow))])
    server.start()
    metadata = (
        ("authorization", f"Service {echo.TOKEN}"),
        ("modelyard-principal", "users/ada"),
        ("modelyard-scopes", "*"),
    )
    with grpc.insecure_channel(server.address) as channel:
        under_way = echo.EchoStub(channel).say.future(
            echo.said("last words"), timeout=5, metadata=metadata
        )
        assert entered.wait(5)
        stopper = threading.Thread(target=server.stop)
        stopper.start()
        until(lambda: server._readiness.state == "draining")
        go.set()
        assert under_way.result().value == "last words"
        stopper.join(5)
    assert not stopper.is_alive()
    server.stop()


def test_ready_file_names_the_addresses(tmp_path: Path) -> None:
    settings = echo.SETTINGS.model_copy(update={"ready_file": tmp_path / "ready.json"})
    with ServiceServer(settings) as server:
        facts = json.loads((tmp_path / "ready.json").read_bytes())
        assert facts["grpc"] == server.address
        assert facts["metrics"] == server.metrics_address


def test_a_hanging_ping_is_a_failed_one() -> None:
    from service_kit.readiness import Readiness

    release = threading.Event()
    readiness = Readiness(lambda _: None, timeout=0.05)
    readiness.start({"slow": lambda: release.wait(5) and None})
    try:
        report = readiness.report()
        assert report["dependencies"]["slow"] == {"ok": False, "error": "no answer in time"}
        assert not readiness.check()
        hanging = [thread for thread in threading.enumerate() if thread.name == "ping-slow"]
        assert len(hanging) == 1
    finally:
        release.set()
        readiness.drain()
