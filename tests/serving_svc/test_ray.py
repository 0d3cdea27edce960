"""The whole service with a real Ray: deploy, answer, roll out, drain, go."""

from __future__ import annotations

import asyncio
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
import pytest
from modelyard.dataplane.v1 import dataplane_pb2, dataplane_pb2_grpc
from modelyard.experiments.v1 import experiments_pb2, experiments_pb2_grpc
from modelyard.registry.v1 import registry_pb2_grpc
from modelyard.serving.v1 import serving_pb2, serving_pb2_grpc

from service_kit.channels import open_channel
from service_kit.server import ServiceServer
from service_kit.settings import ServiceSettings
from tests.serving_svc import models
from tests.serving_svc.test_replica import ask, floats, message

TOKEN = secrets.token_hex(16)
RAY_TOKEN = secrets.token_hex(32)
MODEL = "models/delay"


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(condition: Callable[[], Any], seconds: float, what: str) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, what
        time.sleep(0.05)
    return found


class Judge(experiments_pb2_grpc.ExperimentServiceServicer):
    """Says SHIP, with ever more samples."""

    samples = 0
    conclusion = ""

    def CreateExperiment(  # noqa: N802
        self, request: experiments_pb2.CreateExperimentRequest, _: object
    ) -> experiments_pb2.Experiment:
        return experiments_pb2.Experiment(name=f"experiments/{request.experiment_id}")

    def AnalyzeExperiment(  # noqa: N802
        self, request: experiments_pb2.AnalyzeExperimentRequest, _: object
    ) -> experiments_pb2.Analysis:
        self.samples += 100
        return experiments_pb2.Analysis(decision="DECISION_SHIP", samples=self.samples)

    def ConcludeExperiment(  # noqa: N802
        self, request: experiments_pb2.ConcludeExperimentRequest, _: object
    ) -> experiments_pb2.Experiment:
        self.conclusion = request.conclusion
        return experiments_pb2.Experiment(name=request.name)


class Suite:
    """Ray, the service, and the services around it."""

    def __init__(self, home: Path, redis_url: str, stream_prefix: str) -> None:
        self.registry, self.judge = models.FakeRegistry(models.onnx_linear()), Judge()
        self.settings = ServiceSettings(service="test", service_token=TOKEN, home=home)
        self.around = ServiceServer(
            self.settings,
            [
                (registry_pb2_grpc.add_RegistryServiceServicer_to_server, self.registry),
                (experiments_pb2_grpc.add_ExperimentServiceServicer_to_server, self.judge),
            ],
        )
        peer = self.around.start()
        self.ray_port, self.port = free_port(), free_port()
        self.address = f"127.0.0.1:{self.port}"
        peers = {"registry": peer, "experiments": peer, "serving": self.address}
        self.environment = os.environ | {
            "MODELYARD_HOME": str(home),
            "MODELYARD_SERVICE_TOKEN": TOKEN,
            "MODELYARD_LISTEN": self.address,
            "MODELYARD_PEERS": json.dumps(peers),
            "MODELYARD_RAY_ADDRESS": f"127.0.0.1:{self.ray_port}",
            "MODELYARD_REDIS_URL": redis_url,
            "MODELYARD_STREAM_PREFIX": stream_prefix,
            "MODELYARD_REPLICA_REPORT_MS": "300",
            "MODELYARD_REPLICA_GPUS": "0.25",
            "MODELYARD_DIE_WITH_PARENT": "1",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": RAY_TOKEN,
            "RAY_worker_niceness": "0",
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        self.scratch = tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True)
        self.ray = self._start_ray()
        self.service = self.start_service()
        self.channel = open_channel(self.address, self.settings)
        self.serving = serving_pb2_grpc.ServingServiceStub(self.channel)
        self.dataplane = dataplane_pb2_grpc.DataPlaneServiceStub(self.channel)

    def _start_ray(self) -> subprocess.Popen[bytes]:
        ray = str(Path(sys.executable).with_name("ray"))
        command = [
            *(ray, "start", "--head", "--block", "--num-cpus=2", "--include-dashboard=false"),
            *("--node-ip-address=127.0.0.1", f"--port={self.ray_port}", "--num-gpus=1"),
            *("--min-worker-port=0", "--max-worker-port=0", "--object-store-memory=80000000"),
            *(f"--dashboard-agent-listen-port={free_port()}", f"--temp-dir={self.scratch.name}"),
        ]
        return subprocess.Popen(
            command, env=self.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def in_use(self, resource: str) -> float:
        """How much of a resource Ray has set aside."""
        ray = str(Path(sys.executable).with_name("ray"))
        command = [ray, "status", f"--address=127.0.0.1:{self.ray_port}"]
        told = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=30, check=True
        )
        found = re.search(rf"([\d.]+)/[\d.]+ {resource}", told.stdout)
        return float(found[1]) if found else 0.0

    def start_service(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-m", "serving_svc"], env=self.environment)

    def answers(self) -> bool:
        """Whether the service has started."""
        try:
            self.serving.ListEndpoints(serving_pb2.ListEndpointsRequest(), timeout=2)
        except grpc.RpcError:
            return False
        return True

    def endpoint(self) -> serving_pb2.Endpoint:
        request = serving_pb2.GetEndpointRequest(name="endpoints/late")
        return self.serving.GetEndpoint(request, timeout=5)

    def state(self) -> dataplane_pb2.DataPlaneState:
        """What the gateway is told now."""
        watch = self.dataplane.WatchDataPlane(dataplane_pb2.WatchDataPlaneRequest(), timeout=20)
        state = next(iter(watch))
        watch.cancel()
        return state

    def deployed(self, version: str) -> bool:
        endpoint = self.endpoint()
        if endpoint.state_reason:
            pytest.fail(endpoint.state_reason)
        shares = {each.model_version: each.weight for each in endpoint.traffic.variants}
        return shares == {version: 100.0} and endpoint.state == serving_pb2.Endpoint.STATE_READY

    def stop(self) -> None:
        """End everything that was started here."""
        self.channel.close()
        tree = psutil.Process(self.ray.pid).children(recursive=True)
        for process in (self.service, self.ray):
            process.kill()
            process.wait()
        for each in tree:
            with suppress(psutil.NoSuchProcess):
                each.kill()
        psutil.wait_procs(tree, timeout=3)
        self._end_orphans()
        self.around.stop(grace=0.1)
        self.scratch.cleanup()

    def _end_orphans(self) -> None:
        # Replicas go on without Ray and without the service, as they should.
        home = str(self.settings.home)
        for each in psutil.process_iter():
            with suppress(psutil.Error):
                if each.environ().get("MODELYARD_HOME") == home:
                    each.kill()


@pytest.fixture
def suite(tmp_path: Path, redis_url: str, stream_prefix: str) -> Iterator[Suite]:
    made = Suite(tmp_path, redis_url, stream_prefix)
    yield made
    made.stop()


def answer(suite: Suite, version: str) -> float:
    """Score one row by a replica of that version."""
    replica = next(each for each in suite.state().replicas if each.model_version == version)
    rows = np.ones((1, models.INPUTS), dtype=np.float32)
    answers = asyncio.run(ask(replica.address, suite.settings, [message(1, rows)]))
    return floats(answers[1])[0]


@pytest.mark.ray
def test_versions_are_deployed_rolled_out_and_survive_the_service(suite: Suite) -> None:
    v1, v2 = f"{MODEL}/versions/1", f"{MODEL}/versions/2"
    wanted = serving_pb2.Endpoint(model=MODEL, outcome_independent=True)
    create = serving_pb2.CreateEndpointRequest(endpoint_id="late", endpoint=wanted)
    until(suite.answers, 30, "the service did not start")
    suite.serving.CreateEndpoint(create, timeout=5)
    request = serving_pb2.DeployVersionRequest(
        endpoint="endpoints/late", model_version=v1, request_id="deploy-1"
    )
    suite.serving.DeployVersion(request, timeout=5)
    until(lambda: suite.deployed(v1), 40, "version 1 was not deployed")
    assert answer(suite, v1) == 2.0
    assert suite.registry.aliases == {f"{MODEL}/aliases/champion": v1}

    until(lambda: suite.in_use("GPU") == 0.25, 20, "the replica has no share of the GPU")
    half = serving_pb2.UpdateEndpointRequest(endpoint={"name": "endpoints/late"})
    half.endpoint.replica_gpus = 0.5
    half.update_mask.paths.append("replica_gpus")
    suite.serving.UpdateEndpoint(half, timeout=5)

    strategy = serving_pb2.RolloutStrategy(steps=[50, 100], step_min_samples=100)
    strategy.interval.FromMilliseconds(50)
    rollout = suite.serving.CreateRollout(
        serving_pb2.CreateRolloutRequest(
            parent="endpoints/late",
            rollout=serving_pb2.Rollout(model_version=v2, strategy=strategy),
        ),
        timeout=5,
    )
    # Killed while the challenger loads: the next one goes on, and replicas never notice.
    suite.service.kill()
    suite.service.wait()
    suite.service = suite.start_service()
    until(suite.answers, 30, "the service did not start again")
    get = serving_pb2.GetRolloutRequest(name=rollout.name)

    def promoted() -> bool:
        found = suite.serving.GetRollout(get, timeout=5)
        assert found.state != serving_pb2.Rollout.STATE_FAILED, found.reason
        return bool(found.state == serving_pb2.Rollout.STATE_PROMOTED)

    until(promoted, 40, "the rollout did not end")
    # The challenger has the endpoint's share, the version before keeps what it was loaded with.
    until(lambda: suite.in_use("GPU") == 0.75, 20, "the challenger has another share of the GPU")
    until(lambda: suite.judge.conclusion, 5, "the experiment was not concluded")
    assert answer(suite, v2) == 2.0
    assert suite.registry.aliases == {f"{MODEL}/aliases/champion": v2}

    # A watch that nobody ends does not keep the service from ending.
    watch = suite.dataplane.WatchDataPlane(dataplane_pb2.WatchDataPlaneRequest())
    next(iter(watch))
    begun = time.monotonic()
    suite.service.send_signal(signal.SIGTERM)
    assert suite.service.wait(timeout=6) == 0
    assert time.monotonic() - begun < 3.0
