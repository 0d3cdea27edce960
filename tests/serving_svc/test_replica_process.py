"""A replica in its own process: what it does when its actor stops it, or is gone."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from modelyard.dataplane.v1 import dataplane_pb2

from serving_svc import replica as replica_module
from serving_svc.replica import Replica
from serving_svc.replicas import actor
from serving_svc.replicas.actor import ReplicaActor, ReplicaFailedError
from tests.serving_svc import models
from tests.serving_svc.test_replica import TOKEN, Serving, Surroundings, ask, floats, message

ROW = message(1, np.ones((1, 3), dtype=np.float32))
#: An actor in a process of its own: prints its replica's process id and waits.
ACTOR = """
import json, sys, time
from serving_svc.replicas.actor import ReplicaActor
made = ReplicaActor(json.loads(sys.argv[1]))
print(made.pid, flush=True)
time.sleep(60)
"""


def until(condition: Callable[[], Any], seconds: float = 20.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.02)
    return found


class Relieving(Serving):
    """Takes reports, and relieves orphans when it is told to."""

    drain = False

    def ReportReplica(  # noqa: N802
        self, request: dataplane_pb2.ReportReplicaRequest, context: object
    ) -> dataplane_pb2.ReportReplicaResponse:
        answer = super().ReportReplica(request, context)
        answer.drain = self.drain and request.orphaned
        return answer


@pytest.fixture
def around(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Surroundings]:
    monkeypatch.setenv("MODELYARD_SERVICE_TOKEN", TOKEN)
    monkeypatch.setattr("tests.serving_svc.test_replica.Serving", Relieving)
    made = Surroundings(tmp_path)
    yield made
    made.server.stop(grace=0.1)
    for each in psutil.process_iter():
        with suppress(psutil.Error):
            if str(tmp_path) in each.environ().get("HOME_OF_TEST", ""):
                each.kill()


@pytest.fixture
def home_mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME_OF_TEST", str(tmp_path))


pytestmark = pytest.mark.usefixtures("home_mark")


def alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def test_it_serves_and_drains_when_its_actor_is_stopped(around: Surroundings) -> None:
    ended = threading.Event()
    made = ReplicaActor(around.config.to_json(), ended.set)
    answers = asyncio.run(ask(made.address, around.settings, [ROW]))
    assert floats(answers[1]) == [2.0]
    process = psutil.Process(made.pid)
    assert os.getsid(made.pid) == made.pid, "what is sent to a worker's group must not reach it"
    assert process.ppid() != os.getpid(), "Ray ends the children of a worker that ends"
    made.check_health()
    made.stop()
    until(lambda: not alive(made.pid), 5)
    assert around.serving.reports[-1].draining
    assert not ended.is_set(), "an order is no failure"


def test_a_crash_is_its_actors_end(around: Surroundings) -> None:
    ended = threading.Event()
    made = ReplicaActor(around.config.to_json(), ended.set)
    os.kill(made.pid, signal.SIGKILL)
    assert ended.wait(5)
    made._watch.join(5)
    with pytest.raises(RuntimeError):
        made.check_health()
    made.stop()


def test_it_goes_on_without_its_actor_until_it_is_relieved(around: Surroundings) -> None:
    serving = around.serving
    assert isinstance(serving, Relieving)
    command = [sys.executable, "-c", ACTOR, json.dumps(around.config.to_json())]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as holder:
        assert holder.stdout is not None
        pid = int(holder.stdout.readline())
        assert not serving.reports[-1].orphaned
        # All that Ray's end can be for it: the worker and its group.
        os.killpg(holder.pid, signal.SIGKILL)
    until(lambda: serving.reports[-1].orphaned)
    answers = asyncio.run(ask(serving.reports[-1].address, around.settings, [ROW]))
    assert floats(answers[1]) == [2.0]
    time.sleep(0.5)
    assert alive(pid)
    serving.drain = True
    until(lambda: not alive(pid))
    assert serving.reports[-1].draining


def test_it_drains_when_it_is_terminated(around: Surroundings) -> None:
    ended = threading.Event()
    made = ReplicaActor(around.config.to_json(), ended.set)
    os.kill(made.pid, signal.SIGTERM)
    until(lambda: not alive(made.pid))
    assert around.serving.reports[-1].draining
    assert ended.wait(5), "Ray Serve is to place another one"


def test_one_that_has_not_loaded_ends_with_its_actor(around: Surroundings) -> None:
    config = around.config.to_json() | {"peers": {"registry": "127.0.0.1:1", "serving": "x:1"}}
    command = [sys.executable, "-c", ACTOR, json.dumps(config)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True) as holder:
        family = until(
            lambda: (found := psutil.Process(holder.pid).children(recursive=True))[1:] and found
        )
        holder.kill()
    until(lambda: not any(alive(each.pid) for each in family), 5)
    assert not around.serving.reports, "what has not loaded announces itself to nobody"


def test_why_it_can_not_load_is_told(around: Surroundings) -> None:
    config = around.config.to_json()
    with pytest.raises(ReplicaFailedError, match="ARTIFACT_CORRUPT"):
        ReplicaActor(config | {"artifact": "0" * 64})
    text = models.booster().model_to_string().replace("num_leaves=7", "num_leaves=70000", 1)
    around.registry.serve(text.encode(), "lightgbm")
    crashing = {"artifact": around.registry.sha256, "runtime": "lightgbm"}
    with pytest.raises(ReplicaFailedError, match=r"lightgbm crashed .* \(SIGABRT\)"):
        ReplicaActor(config | crashing)
    assert "ended with 3" in actor._why(3, "onnx")


def test_an_orphan_that_nobody_speaks_with_is_not_needed(
    around: Surroundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Replica(around.config.to_json())
    monkeypatch.setattr(replica_module, "ABANDONED_S", 0.4)
    around.server.stop(grace=0.1)
    time.sleep(1.0)
    assert made.needed, "it has an actor"
    made.orphan()
    assert not made.needed

    async def connected() -> bool:
        peer = await asyncio.open_connection(*made.address.split(":"))
        await asyncio.sleep(0.1)
        needed = made.needed
        peer[1].close()
        return needed

    assert asyncio.run(connected()), "somebody may ask it"
    made.stop()
