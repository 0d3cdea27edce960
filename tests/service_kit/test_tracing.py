"""Traces leave the process by OTLP, with the parents that they have across processes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import (
    trace_service_pb2,
    trace_service_pb2_grpc,
)

ROOT = Path(__file__).parents[2]

#: A client's span around a call to a service, both in one process; the ids are printed.
SCRIPT = """
import sys
from service_kit import telemetry
from service_kit.channels import open_channel
from service_kit.server import ServiceServer
from service_kit.settings import ServiceSettings
from tests.service_kit import echo

settings = ServiceSettings(service="echo", service_token=echo.TOKEN, otlp_endpoint=sys.argv[1])
telemetry.configure(settings)
server = ServiceServer(settings, [(echo.add_to_server, echo.Echo())])
address = server.start()
with open_channel(address, settings) as channel:
    with telemetry.tracer("test").start_as_current_span("outer"):
        print(*telemetry.trace_ids(), flush=True)
        echo.EchoStub(channel).say(echo.said("hello"), timeout=5)
server.stop(grace=1.0)
telemetry.shutdown()
"""


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps the spans that are sent to it."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, Any]] = []

    def Export(self, request: Any, context: Any) -> Any:  # noqa: N802
        for resource in request.resource_spans:
            names = {a.key: a.value.string_value for a in resource.resource.attributes}
            for scope in resource.scope_spans:
                self.spans += [(names["service.name"], span) for span in scope.spans]
        return trace_service_pb2.ExportTraceServiceResponse()


@pytest.fixture
def collector() -> Iterator[tuple[Collector, str]]:
    made = Collector()
    server = grpc.server(ThreadPoolExecutor(2))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(made, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield made, f"http://127.0.0.1:{port}"
    server.stop(None).wait()


def test_a_call_is_one_trace_with_the_caller_as_parent(collector: tuple[Collector, str]) -> None:
    made, endpoint = collector
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, endpoint],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    trace_id, outer_id = done.stdout.split()
    found = {span.name: span for _, span in made.spans}
    assert {service for service, _ in made.spans} == {"modelyard-echo"}
    assert {span.trace_id.hex() for span in found.values()} == {trace_id}
    outer = found.pop("outer")
    (served,) = found.values()
    assert "Say" in served.name
    assert (outer.span_id.hex(), served.parent_span_id.hex()) == (outer_id, outer_id)
