"""Child processes that can't outlive their parent."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from client.errors import ModelyardError
from client.suite.plan import ProcessSpec

PR_SET_PDEATHSIG = 1
RESTART_BUDGET = 5
RESTART_PERIOD = 60.0
FIRST_PAUSE = 0.5


def _die_with(parent: int) -> None:
    """Asks the kernel to kill this process when its parent dies, however that happens."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the kernel was asked
        os._exit(1)


class KeepsEnding(ModelyardError):  # noqa: N818
    """A process ends again and again."""


@dataclass
class Child:
    """A running process of the suite, started again when it ends by itself."""

    spec: ProcessSpec
    log: Path
    process: subprocess.Popen[bytes] | None = None
    started: list[float] = field(default_factory=list)
    given_up: bool = False

    def start(self) -> None:
        """Starts the process with its output appended to the log."""
        if self.process is not None:
            # What the one before had started itself may hold the port still.
            kill_group(self.process.pid)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        now = time.monotonic()
        self.started = [at for at in self.started if now - at < RESTART_PERIOD] + [now]
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(  # noqa: S603
                self.spec.command,
                env=dict(self.spec.env),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches the launcher alone, which stops in order
                preexec_fn=partial(_die_with, os.getpid()),  # noqa: PLW1509 - there is one thread
            )

    @property
    def pid(self) -> int:
        """Process id; 0 before the start."""
        return self.process.pid if self.process else 0

    def ended(self) -> bool:
        """Whether the process has ended by itself."""
        return self.process is not None and self.process.poll() is not None

    def restart_due(self) -> bool:
        """Whether it is time to start again: later with every start of the last minute.

        Raises:
            KeepsEnding: The budget of restarts is used up.
        """
        now = time.monotonic()
        recent = [at for at in self.started if now - at < RESTART_PERIOD]
        if len(recent) > RESTART_BUDGET:
            raise KeepsEnding(f"{self.spec.name} keeps ending, see {self.log}:\n{self.tail()}")
        return not recent or now - recent[-1] > FIRST_PAUSE * 2 ** (len(recent) - 1)

    def ask_to_stop(self) -> None:
        """Sends SIGTERM."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()

    def stop(self, deadline: float) -> None:
        """Waits for the end and kills the whole process group when time is up."""
        if self.process is None:
            return
        try:
            # Late or not, all of its group is killed then: it may have left children behind.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(max(0.0, deadline - time.monotonic()))
        finally:
            kill_group(self.process.pid)
            self.process.wait()

    def tail(self, lines: int = 12) -> str:
        """Last lines of the log."""
        try:
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        except OSError:
            return ""


def kill_group(pid: int) -> None:
    """Kills what is left of a process group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
