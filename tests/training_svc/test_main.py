"""The service as a process."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from service_kit.errors import Unavailable
from training_svc.__main__ import Beside


def test_the_process_gets_ready_without_its_peers_and_ends_when_told(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    environment = {
        **os.environ,
        "MODELYARD_HOME": str(tmp_path),
        "MODELYARD_READY_FILE": str(ready),
        "MODELYARD_PEERS": json.dumps(
            dict.fromkeys(("registry", "features", "serving"), "127.0.0.1:1")
        ),
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "training_svc"], env=environment, stdout=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 30
        while not ready.exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.wait()


def test_work_beside_the_service_may_fail(caplog: pytest.LogCaptureFixture) -> None:
    done = threading.Event()

    def fail() -> None:
        done.set()
        raise Unavailable("RAY_UNAVAILABLE", "away")

    with caplog.at_level(logging.WARNING):
        Beside(fail).start()
        assert done.wait(5)
        deadline = time.monotonic() + 5
        while not caplog.records and time.monotonic() < deadline:
            time.sleep(0.01)
    assert caplog.records[0].__dict__["reason"] == "RAY_UNAVAILABLE"


def test_work_that_was_not_begun_is_left_out() -> None:
    done = threading.Event()
    ended: list[str] = []
    beside = Beside(done.set, after=60.0, end=lambda: ended.append("ended"))
    beside.start()
    beside.stop()
    assert ended == ["ended"]
    assert not done.wait(0.05)
