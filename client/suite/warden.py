"""Ends what is left of a suite when its launcher has died, however that happened.

Each child asks the kernel to die with the launcher, but what a child has started in turn does
not. So the launcher keeps a pipe to this process open; when it closes, every process that carries
the suite's mark in its environment is killed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

MARK = "MODELYARD_SUITE_ID"
"""Environment variable that all processes of a suite share; each start has a value of its own."""
SWEEP_SECONDS = 15.0
CALM_SECONDS = 0.5
POLL = 0.1


class Warden:
    """The launcher's side: holds the pipe."""

    def __init__(self, mark: str) -> None:
        self._mark = mark
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts the process, out of reach of Ctrl-C."""
        environment = {name: value for name, value in os.environ.items() if name != MARK}
        self._process = subprocess.Popen(  # noqa: S603
            (sys.executable, "-m", __name__, self._mark),
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def stop(self) -> None:
        """Lets it look whether anything is left, and waits for its end."""
        if self._process is None or self._process.stdin is None:
            return
        self._process.stdin.close()
        self._process.wait()
        self._process = None


def marked(mark: str) -> list[int]:
    """Ids of the processes that carry a mark in their environment, without this one."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            if wanted in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
        except OSError:
            continue  # it has just ended, or is somebody else's
    return found


def sweep(mark: str) -> None:
    """Kills marked processes until none has been seen for a while."""
    deadline = time.monotonic() + SWEEP_SECONDS
    calm_since = time.monotonic()
    while time.monotonic() < min(deadline, calm_since + CALM_SECONDS):
        for pid in marked(mark):
            calm_since = time.monotonic()
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(POLL)


def main() -> None:
    """Waits for the end of the launcher, then sweeps."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    while os.read(sys.stdin.fileno(), 1024):
        pass
    sweep(sys.argv[1])


if __name__ == "__main__":
    main()
