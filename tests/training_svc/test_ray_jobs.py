"""Training in child processes, with and without Ray."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import numpy as np
import pytest

from service_kit.errors import FailedPrecondition, Unavailable
from tests.training_svc.test_trainers import data
from training_svc.domain.pipelines import TrainerSpec
from training_svc.fitting import Task, fit_here
from training_svc.ray_jobs import RayJobs
from training_svc.trainers import Fitted

QUICK = TrainerSpec("lightgbm", {"num_iterations": 30})
LONG = TrainerSpec("lightgbm", {"num_iterations": 10_000, "num_leaves": 255})
NAMES = [f"x{at}" for at in range(5)]


class StopAsked(BaseException):
    """Raised by a check, as a stopped workflow does."""


def go_on() -> None:
    """Nothing asks it to stop."""


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def fit(jobs: RayJobs, spec: TrainerSpec = QUICK) -> Fitted:
    inputs, labels = data(2000)
    return jobs.fit(spec, inputs, labels, NAMES, 7, go_on)


def here() -> Fitted:
    inputs, labels = data(2000)
    fitted = fit_here(Task(QUICK.trainer, dict(QUICK.config), 1, 0, NAMES, 7, inputs, labels))
    assert isinstance(fitted, Fitted)
    return fitted


@pytest.fixture(scope="module")
def alone() -> Iterator[RayJobs]:
    """Jobs without Ray."""
    jobs = RayJobs("")
    yield jobs
    jobs.close()


def test_a_child_fits_the_same_model(alone: RayJobs) -> None:
    assert fit(alone).model == here().model
    child = alone._idle[0].process.pid
    fit(alone)
    assert alone._idle[0].process.pid == child


def test_what_a_trainer_refuses_comes_back_typed(alone: RayJobs) -> None:
    with pytest.raises(FailedPrecondition) as error:
        fit(alone, TrainerSpec("lightgbm", {"num_leaves": 1}))
    assert error.value.reason == "PLUGIN_CONFIG_INVALID"
    with pytest.raises(FailedPrecondition, match="failed with LightGBMError"):
        alone.fit(QUICK, np.zeros((3, 2), np.float32), np.zeros(4), ["a"], 0, go_on)


def test_a_run_that_should_stop_stops_soon(alone: RayJobs) -> None:
    fit(alone)
    child = alone._idle[0].process
    inputs, labels = data(12_000)
    began = time.monotonic()

    def check() -> None:
        if time.monotonic() - began > 0.5:
            raise StopAsked

    with pytest.raises(StopAsked):
        alone.fit(LONG, inputs, labels, NAMES, 7, check)
    assert time.monotonic() - began < 5
    assert not child.is_alive()
    assert fit(alone).model == here().model


def test_a_killed_child_is_a_passing_error(alone: RayJobs) -> None:
    fit(alone)
    child = alone._idle[0].process
    inputs, labels = data(12_000)
    threading.Timer(0.5, child.kill).start()
    with pytest.raises(Unavailable):
        alone.fit(LONG, inputs, labels, NAMES, 7, go_on)
    fit(alone)


def test_a_cluster_that_is_away_is_said_at_once() -> None:
    began = time.monotonic()
    with pytest.raises(Unavailable) as error:
        fit(RayJobs(f"127.0.0.1:{free_port()}"))
    assert error.value.reason == "RAY_UNAVAILABLE"
    assert time.monotonic() - began < 3


@pytest.fixture(scope="module")
def ray_address(monkeypatch_module: pytest.MonkeyPatch) -> Iterator[str]:
    """A local Ray with a token, stopped afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="tr"))
    (folder / "token").write_text(secrets.token_hex(32))
    monkeypatch_module.setenv("RAY_AUTH_MODE", "token")
    monkeypatch_module.setenv("RAY_AUTH_TOKEN_PATH", str(folder / "token"))
    monkeypatch_module.setenv("RAY_worker_niceness", "0")
    monkeypatch_module.setenv("RAY_USAGE_STATS_ENABLED", "0")
    port = free_port()
    ports = [f"--port={port}", "--min-worker-port=0", "--max-worker-port=0"]
    command = [
        str(Path(sys.executable).with_name("ray")),
        *("start", "--head", "--block", "--disable-usage-stats", "--include-dashboard=false"),
        *("--node-ip-address=127.0.0.1", "--num-cpus=2", "--object-store-memory=100000000"),
        *(*ports, f"--dashboard-agent-listen-port={free_port()}", f"--temp-dir={folder}"),
    ]
    head = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        wait_for(port)
        yield f"127.0.0.1:{port}"
    finally:
        head.terminate()
        try:
            head.wait(20)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(head.pid, 9)
            shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def monkeypatch_module() -> Iterator[pytest.MonkeyPatch]:
    """Patches of a whole module."""
    with pytest.MonkeyPatch.context() as patch:
        yield patch


def wait_for(port: int) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


@pytest.mark.ray
def test_ray_fits_the_same_model(ray_address: str) -> None:
    jobs = RayJobs(ray_address)
    try:
        jobs.warm_up()
        began = time.monotonic()
        assert fit(jobs).model == here().model
        assert time.monotonic() - began < 20
        with pytest.raises(FailedPrecondition) as error:
            fit(jobs, TrainerSpec("lightgbm", {"num_leaves": 1}))
        assert error.value.reason == "PLUGIN_CONFIG_INVALID"
    finally:
        jobs.close()
