"""What outlives its launcher is found by its mark and ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

from client.suite.warden import MARK, Warden, belonging, sweep

# A launcher with a warden, whose child starts another in a session of its own and goes away.
LAUNCHER = """
import os, subprocess, sys, time
from client.suite.warden import MARK, Warden
mark = sys.argv[1]
Warden(mark).start()
sleep = "import time; time.sleep(60)"
command = f"[sys.executable, '-c', {sleep!r}]"
nested = f"import subprocess, sys; subprocess.Popen({command}, start_new_session=True)"
subprocess.run([sys.executable, "-c", nested], env={**os.environ, MARK: mark}, check=True)
print("up", flush=True)
time.sleep(60)
"""


def gone(mark: str, seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while belonging(mark):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def test_an_orphan_of_a_killed_launcher_is_ended() -> None:
    mark = os.urandom(8).hex()
    with subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, mark], stdout=subprocess.PIPE
    ) as launcher:
        assert launcher.stdout is not None
        assert launcher.stdout.readline() == b"up\n"
        assert len(belonging(mark)) == 1
        launcher.send_signal(signal.SIGKILL)
    assert gone(mark)


def test_a_child_without_the_mark_is_known_by_its_session() -> None:
    # Its leader is gone and it has wiped its environment, as programs that set titles do.
    nested = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', sys.argv[1]], env={})"
    command = [sys.executable, "-c", nested, "import time; time.sleep(60)"]
    with subprocess.Popen(command, start_new_session=True) as leader:
        leader.wait()
    mark = os.urandom(8).hex()
    assert len(belonging(mark, {leader.pid})) == 1
    sweep(mark, {leader.pid})
    assert belonging(mark, {leader.pid}) == []


def test_a_session_of_somebody_else_is_left_alone() -> None:
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    with subprocess.Popen(command, start_new_session=True) as other:
        try:
            assert belonging("mark", {other.pid}) == []
        finally:
            other.kill()


def test_others_are_left_alone() -> None:
    mark, other = os.urandom(8).hex(), os.urandom(8).hex()
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    with subprocess.Popen(command, env={**os.environ, MARK: other}) as bystander:
        try:
            sweep(mark)
            assert bystander.poll() is None
            assert belonging(other) == [bystander.pid]
        finally:
            bystander.kill()


def test_a_stopped_warden_leaves() -> None:
    warden = Warden(os.urandom(8).hex())
    warden.start()
    began = time.monotonic()
    warden.stop()
    warden.stop()
    assert time.monotonic() - began < 10
