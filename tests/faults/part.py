"""A running suite as the tests of faults see it: its processes, what it says, its one endpoint."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import httpx
import psutil

from client.suite.supervisor import gateway_readiness
from examples.flights.suite import Suite
from tests.serving_svc import models

ENDPOINT = "endpoints/faults"
MODEL = "models/faults"
REPLICAS = 2
GATEWAY_METRICS, SERVING_METRICS = 50, 74


def until(condition: Callable[[], Any], seconds: float, what: str) -> Any:
    """Wait until something holds."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, what
        time.sleep(0.1)
    return found


class Part:
    """The parts of a suite.

    Attributes:
        key: The admin's API key.
    """

    def __init__(self, suite: Suite) -> None:
        self.suite = suite
        self.key = suite.key_file.read_text().strip()

    def pid(self, name: str) -> int:
        """Process id of a part."""
        state = json.loads((self.suite.home / "run" / "suite.json").read_text())
        return int(state["processes"][name])

    def kill(self, name: str) -> None:
        """Kill a part with -9 and wait until another one has taken its place."""
        before = self.pid(name)
        os.kill(before, signal.SIGKILL)
        until(lambda: self.pid(name) != before, 20, f"{name} was not started again")

    @contextmanager
    def hanging(self, name: str) -> Iterator[None]:
        """Have a part do nothing for a while, without its connections ending."""
        process = self.pid(name)
        os.kill(process, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(process, signal.SIGCONT)

    def kill_below(self, name: str, program: str) -> None:
        """Kill a process that a part has started, with -9."""
        family = psutil.Process(self.pid(name)).children(recursive=True)
        next(each for each in family if program in each.name()).kill()

    def ready(self) -> bool:
        """Whether the gateway and every service say so."""
        return all(gateway_readiness(self.suite.url).values())

    def metric(self, name: str, port: int = GATEWAY_METRICS) -> list[float]:
        """The values of a metric, one a label set."""
        try:
            text = httpx.get(f"http://127.0.0.1:{self.suite.port + port}/metrics").text
        except httpx.TransportError:
            return []
        lines = [line.rpartition(" ") for line in text.splitlines() if line.startswith(name)]
        return [float(value) for label, _, value in lines if label.partition("{")[0] == name]

    def logged(self) -> tuple[float, float]:
        """Rows that the gateway has appended to a stream, and rows that it has dropped."""
        logged = sum(self.metric("modelyard_log_rows_total"))
        return logged, sum(self.metric("modelyard_log_dropped_total"))

    def orphans(self) -> int:
        """Replicas that go on without Ray."""
        return int(sum(self.metric("modelyard_replica_orphaned", SERVING_METRICS)))

    def placed(self) -> int:
        """Replicas that report themselves and have an actor of Ray's."""
        return self.metric("modelyard_replica_orphaned", SERVING_METRICS).count(0.0)

    def healed(self, replicas: int = REPLICAS) -> bool:
        """Whether all is as before, with every replica placed by Ray."""
        return self.ready() and self.orphans() == 0 and self.placed() == replicas


def deploy(part: Part) -> None:
    """Register a tiny model and serve it with two replicas."""
    with part.suite.client() as client:
        client.create("models", MODEL.partition("/")[2], {"owner": "tests"})
        endpoint = {
            "model": MODEL,
            "min_replicas": REPLICAS,
            "max_replicas": 4,
            "deadline": "5s",  # the machine starts processes all the while
        }
        client.create("endpoints", ENDPOINT.partition("/")[2], endpoint)
        inputs = [
            {"name": f"f{n}", "kind": "KIND_NUMERIC", "source": "SOURCE_REQUEST", "required": True}
            for n in range(models.INPUTS)
        ]
        file = {"role": "model", "filename": "model.onnx", "format": "onnx"}
        version = {
            "runtime": "onnx",
            "artifacts": [file | {"artifact": upload(part, models.onnx_linear())}],
            "signature": {"inputs": inputs, "outputs": ["score"]},
        }
        made = client.post(f"{MODEL}/versions", version)["name"]
        client.post(f"{ENDPOINT}:deploy", {"model_version": made, "reason": "tests"})
        until(lambda: client.get(ENDPOINT)["state"] == "STATE_READY", 60, "not deployed")
    until(part.healed, 30, "not all replicas are up")


def upload(part: Part, content: bytes) -> str:
    """Store a file; gives the artifact's name."""
    line = {
        "chunk": base64.b64encode(content).decode(),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    headers = {"x-api-key": part.key, "content-type": "application/x-ndjson"}
    url = f"{part.suite.url}/v1/artifacts:write"
    answer = httpx.post(url, content=json.dumps(line), headers=headers, timeout=30)
    return str(answer.raise_for_status().json()["name"])


def marked(mark: str) -> list[psutil.Process]:
    """Processes with an environment variable of that name."""
    found = []
    for each in psutil.process_iter():
        with suppress(psutil.Error):
            if mark in each.environ():
                found.append(each)
    return found
