"""Ends what is left of a suite when its launcher has died, however that happened.

Each child asks the kernel to die with the launcher, but what a child has started in turn does
not. So the launcher keeps a pipe to this process open, on which it names its children; when it
closes, every process is killed that carries the suite's mark in its environment or is of the
session of such a child. (Ray's agents write their titles over their environment.)
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Collection
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

    def note(self, child: int) -> None:
        """Names a child, which leads a session of its own."""
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.write(f"{child}\n".encode())
                self._process.stdin.flush()

    def stop(self) -> None:
        """Lets it look whether anything is left, and waits for its end."""
        if self._process is None or self._process.stdin is None:
            return
        self._process.stdin.close()
        self._process.wait()
        self._process = None


def belonging(mark: str, sessions: Collection[int] = ()) -> list[int]:
    """Ids of a suite's processes: those with its mark, and those of its children's sessions."""
    wanted = f"{MARK}={mark}".encode()
    marked, session_of = set(), {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            if wanted in (entry / "environ").read_bytes().split(b"\0"):
                marked.add(int(entry.name))
            stat = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has just ended, or is somebody else's
        if stat[0] != "Z":
            session_of[int(entry.name)] = int(stat[3])
    # A leader without the mark is somebody else's, who got the number of a child of ours.
    ours = {each for each in sessions if each in marked or each not in session_of}
    return [pid for pid, session in session_of.items() if pid in marked or session in ours]


def sweep(mark: str, sessions: Collection[int] = ()) -> None:
    """Kills a suite's processes until none has been seen for a while."""
    deadline = time.monotonic() + SWEEP_SECONDS
    calm_since = time.monotonic()
    while time.monotonic() < min(deadline, calm_since + CALM_SECONDS):
        for pid in belonging(mark, sessions):
            calm_since = time.monotonic()
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(POLL)


def main() -> None:
    """Waits for the end of the launcher, then sweeps."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sessions = {int(line) for line in sys.stdin}
    sweep(sys.argv[1], sessions)


if __name__ == "__main__":
    main()
