"""`modelyard up` starts everything, and whatever ends the launcher ends everything."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from client.suite.supervisor import gateway_readiness
from tests.e2e.fixtures import (
    free_base_port,
    left_behind,
    listens,
    processes_of,
    temporary_home,
)

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(200)]

READY_SECONDS = 45.0
LOG = "launcher.log"
SERVICES = ("registry", "features", "training", "serving", "monitoring", "experiments")

Launched = tuple["subprocess.Popen[bytes]", Path, int]


@pytest.fixture
def launched() -> Iterator[Launched]:
    with temporary_home() as home:
        home.mkdir(parents=True)
        port = free_base_port()
        launcher = launch(home, "up", "--home", str(home), "--port", str(port))
        try:
            yield launcher, home, port
        finally:
            launcher.kill()
            launcher.wait()
            left_behind(home, port)


def launch(home: Path, *arguments: str) -> subprocess.Popen[bytes]:
    with (home / LOG).open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "client.cli", *arguments],
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def until(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.1)


def ready(home: Path, port: int) -> bool:
    """Whether the gateway says that all is ready and the launcher has said so."""
    said = "ready after" in (home / LOG).read_text()
    return said and all(gateway_readiness(f"http://127.0.0.1:{port}").values())


def test_up_and_down(launched: Launched) -> None:
    launcher, home, port = launched
    until(lambda: ready(home, port), READY_SECONDS)
    answer = httpx.get(f"http://127.0.0.1:{port}/readyz").json()
    assert set(SERVICES) <= set(answer["dependencies"])
    state = json.loads((home / "run" / "suite.json").read_text())
    assert {"valkey", "ray", "mlflow", "gateway", *SERVICES} == set(state["processes"])
    assert len(set(state["processes"].values())) == len(state["processes"])
    keys = [each for each in (home / "keys").iterdir() if each.is_file()]
    assert keys
    assert {each.name for each in keys if each.stat().st_mode & 0o077} <= {
        each.name for each in keys if each.suffix == ".crt"
    }
    down = subprocess.run(
        [sys.executable, "-m", "client.cli", "down", "--home", str(home)], check=False, timeout=30
    )
    assert down.returncode == 0
    assert launcher.wait(5) == 0, (home / LOG).read_text()
    assert left_behind(home, port) == []


def test_ctrl_c_while_it_starts(launched: Launched) -> None:
    launcher, home, port = launched
    until(lambda: listens(port + 30) and listens(port + 31), READY_SECONDS)
    launcher.send_signal(signal.SIGINT)
    launcher.wait(20)
    assert left_behind(home, port) == []


def test_kill_9_of_the_launcher(launched: Launched) -> None:
    launcher, home, port = launched
    until(lambda: ready(home, port), READY_SECONDS)
    assert len(processes_of(home)) > len(SERVICES)
    os.kill(launcher.pid, signal.SIGKILL)
    launcher.wait()
    assert left_behind(home, port) == []
