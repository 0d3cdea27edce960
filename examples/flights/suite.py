"""A suite of the example's own: started by its launcher, which nothing outlives."""

from __future__ import annotations

import ctypes
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from client.errors import ModelyardError
from client.sdk import Client
from client.suite.lock import holder
from client.suite.supervisor import gateway_readiness, running_suite

READY_TIMEOUT = 150.0
STOP_TIMEOUT = 25.0
POLL = 0.25
MARK = "flights-demo"
"""Name of the file that says that a folder is the example's own."""

_PR_SET_PDEATHSIG = 1

Progress = Callable[[dict[str, bool]], None]


class Suite:
    """Starts `modelyard up` in a folder, or finds the one that runs there already."""

    def __init__(self, home: Path, port: int) -> None:
        self.home = home.resolve()
        self.port = port
        self.seconds_to_ready = 0.0
        self._launcher: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Address of the gateway."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def key_file(self) -> Path:
        """File of the admin's API key."""
        return self.home / "keys" / "admin.key"

    @property
    def started_here(self) -> bool:
        """Whether this process has started it."""
        return self._launcher is not None

    def start(self, progress: Progress = lambda _: None) -> None:
        """Starts the suite and waits until all of it is ready; finds one that runs already.

        Raises:
            ModelyardError: It doesn't get ready.
        """
        began = time.monotonic()
        state = running_suite(self.home)
        if state is not None:
            self.port = int(str(state["url"]).rpartition(":")[2])
        else:
            self._clear()
            self._launcher = self._launch()
        while not all((ready := gateway_readiness(self.url)).values()):
            progress(ready)
            if self._launcher is not None and self._launcher.poll() is not None:
                raise ModelyardError(f"the suite could not be started:\n{self._tail()}")
            if time.monotonic() - began > READY_TIMEOUT:
                raise ModelyardError(f"the suite is not ready after {READY_TIMEOUT:.0f} s")
            time.sleep(POLL)
        self.seconds_to_ready = time.monotonic() - began

    def client(self) -> Client:
        """A client with the admin's key."""
        return Client(self.url, self.key_file.read_text().strip(), timeout=60.0)

    def wait(self) -> None:
        """Waits until somebody stops the launcher.

        Raises:
            ModelyardError: It has failed.
        """
        if self._launcher is not None and self._launcher.wait() not in (0, -signal.SIGTERM):
            raise ModelyardError(f"the suite has ended:\n{self._tail()}")

    def stop(self) -> None:
        """Stops what was started here."""
        if self._launcher is None:
            return
        self._launcher.send_signal(signal.SIGTERM)
        try:
            self._launcher.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            # Its children end with it, however it ends.
            self._launcher.kill()
            self._launcher.wait()
        self._launcher = None

    def _clear(self) -> None:
        """Forgets an earlier story; a folder that is not the example's own is left alone."""
        if holder(self.home) is not None:
            raise ModelyardError(f"a suite is starting or stopping in {self.home}: try again")
        mark = self.home / MARK
        if mark.exists():
            shutil.rmtree(self.home)
        elif self.home.exists() and any(self.home.iterdir()):
            raise ModelyardError(f"{self.home} holds another suite: choose another --home")
        self.home.mkdir(parents=True, exist_ok=True)
        mark.write_text("the flights example keeps its suite here and begins each time anew\n")

    def _launch(self) -> subprocess.Popen[bytes]:
        command = (
            *(sys.executable, "-m", "client.cli", "up"),
            *("--home", str(self.home), "--port", str(self.port)),
        )
        with self._log.open("wb") as output:
            return subprocess.Popen(  # noqa: S603
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the story, which stops its suite
                preexec_fn=_die_with_parent,  # noqa: PLW1509 - no thread was started yet
            )

    @property
    def _log(self) -> Path:
        return self.home / "launcher.log"

    def _tail(self, lines: int = 25) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-lines:])


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
