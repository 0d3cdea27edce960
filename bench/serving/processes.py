"""Starting a server as a tree of processes, and ending all of it."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

_PR_SET_PDEATHSIG = 1

READY_S, STOP_S, POLL_S = 90.0, 25.0, 0.1


class StartError(Exception):
    """A server that could not be started; the text has the end of its log."""


class Tree:
    """A process and its descendants.

    Args:
        command: What to start.
        env: Added to the environment.
        log: Where its output goes.
    """

    def __init__(
        self, command: Sequence[str], env: Mapping[str, str], folder: Path, log: Path
    ) -> None:
        self._log = log
        with log.open("wb") as output:
            self._root = subprocess.Popen(
                command,
                cwd=folder,
                env={**os.environ, **env},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the benchmark, which stops it
                preexec_fn=_end_with_parent,  # noqa: PLW1509 - no thread was started yet
            )

    @property
    def pid(self) -> int:
        """The process that was started."""
        return self._root.pid

    def wait_until(self, ready: Callable[[], bool]) -> None:
        """Waits for a condition.

        Raises:
            StartError: The process ends, or the time is up.
        """
        deadline = time.monotonic() + READY_S
        while not ready():
            if self._root.poll() is not None:
                raise StartError(f"it ended with {self._root.returncode}:\n{self.tail()}")
            if time.monotonic() > deadline:
                raise StartError(f"it is not ready after {READY_S:.0f} s:\n{self.tail()}")
            time.sleep(POLL_S)

    def stop(self) -> None:
        """Asks the root to end, then ends what is left of the tree."""
        try:
            family = psutil.Process(self.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            family = []
        self._root.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self._root.wait(STOP_S)
        for each in family:
            with suppress(psutil.NoSuchProcess):  # it knows a pid that was given out anew
                each.kill()
        self._root.kill()
        self._root.wait()
        psutil.wait_procs(family, timeout=5)

    def tail(self, lines: int = 12) -> str:
        """The end of its output."""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-lines:])


def free_port() -> int:
    """A loopback port on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def free_base_port(offsets: Sequence[int]) -> int:
    """A port below the ephemeral ones such that it and others above it are free.

    Raises:
        StartError: There is none.
    """
    for base in range(20_100, 30_000, 100):
        if not any(listens(base + each) for each in offsets):
            return base
    raise StartError("no free ports")


def listens(port: int) -> bool:
    """Whether something listens on a loopback port."""
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
