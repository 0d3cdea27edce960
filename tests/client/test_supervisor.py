"""Processes that are kept alive, and that never outlive the launcher."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from client.suite.plan import ProcessSpec
from client.suite.processes import Child, KeepsEnding
from client.suite.supervisor import SuiteFailed, check_ports, running_suite

SLEEP = (sys.executable, "-c", "import time; time.sleep(60)")
STUBBORN = (
    sys.executable,
    "-c",
    """import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)
print('up', flush=True); time.sleep(60)""",
)


def child(tmp_path: Path, command: tuple[str, ...]) -> Child:
    return Child(ProcessSpec("part", command, os.environ, 1), tmp_path / "logs" / "part.log")


def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


def test_a_stubborn_process_is_killed_when_time_is_up(tmp_path: Path) -> None:
    part = child(tmp_path, STUBBORN)
    part.start()
    until(lambda: "up" in part.tail())
    part.ask_to_stop()
    part.stop(time.monotonic() + 0.2)
    assert not alive(part.pid)


def test_a_process_that_ends_is_started_again_with_patience(tmp_path: Path) -> None:
    part = child(tmp_path, SLEEP)
    part.start()
    os.kill(part.pid, signal.SIGKILL)
    until(part.ended)
    assert not part.restart_due()
    until(part.restart_due)
    part.start()
    assert not part.ended()
    part.stop(time.monotonic())


def test_a_process_that_keeps_ending_is_given_up_with_its_last_words(tmp_path: Path) -> None:
    part = child(tmp_path, (sys.executable, "-c", "print('no such database'); exit(3)"))
    for _ in range(6):
        part.start()
    until(part.ended)
    until(lambda: "no such database" in part.tail())
    with pytest.raises(KeepsEnding, match="no such database"):
        part.restart_due()


def test_kill_minus_nine_of_the_launcher_leaves_nothing(tmp_path: Path) -> None:
    script = (
        "import os, sys, time; from pathlib import Path\n"
        "from client.suite.plan import ProcessSpec\n"
        "from client.suite.processes import Child\n"
        f"spec = ProcessSpec('part', {SLEEP!r}, os.environ, 1)\n"
        f"part = Child(spec, Path({str(tmp_path)!r}, 'l'))\n"
        "part.start(); print(part.pid, flush=True); time.sleep(60)\n"
    )
    launcher = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert launcher.stdout is not None
    pid = int(launcher.stdout.readline())
    assert alive(pid)
    launcher.kill()
    launcher.wait()
    launcher.stdout.close()
    until(lambda: not alive(pid))


def test_a_taken_port_is_named() -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        spec = ProcessSpec("gateway", ("true",), {}, taken.getsockname()[1])
        with pytest.raises(SuiteFailed, match=rf"gateway \({spec.port}\)"):
            check_ports([spec])


def test_no_suite_runs_in_an_empty_home(tmp_path: Path) -> None:
    assert running_suite(tmp_path) is None
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "suite.json").write_text('{"pid": 999999999}')
    assert running_suite(tmp_path) is None
