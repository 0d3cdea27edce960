"""What Ray Serve deploys: an actor that has a replica run in a process of its own.

Were the replica in the actor's process, it would end with Ray. This module is imported in every
actor and imports little: the rest is the replica's.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

PROCESS = "serving_svc.replica_process"
#: As in that module.
BY_SIGNAL = 128
#: Seconds for a replica to drain; Ray Serve waits a little longer.
STOP_TIMEOUT_S = 18.0


class ReplicaFailedError(Exception):
    """A replica could not start."""


def _end() -> None:
    # Ray Serve then does as for any actor that was killed: it places another one.
    os._exit(1)


class ReplicaActor:
    """Starts a replica; when the replica ends, so does the actor.

    Args:
        config: A `ReplicaConfig` as plain values.
        ended: Called, in a thread, when the replica has ended by itself.

    Raises ReplicaFailedError with what keeps the version from being served.
    """

    def __init__(self, config: dict[str, Any], ended: Callable[[], None] = _end) -> None:
        self._ended = ended
        self._control, theirs = socket.socketpair()
        with theirs:
            launcher = subprocess.Popen(  # noqa: S603 - our own module
                [sys.executable, "-m", PROCESS, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
            )
        told = self._start(config)
        status = launcher.wait()
        if "address" not in told:
            self._control.close()
            raise ReplicaFailedError(told.get("error") or _why(status, config["runtime"]))
        self.address: str = told["address"]
        self.pid: int = told["pid"]
        self._stopping = False
        self._watch = threading.Thread(target=self._wait, name="replica", daemon=True)
        self._watch.start()

    async def __call__(self) -> str:
        """The address of the replica's data plane; requests do not come this way."""
        return self.address

    def check_health(self) -> None:
        """Called by Ray Serve, which replaces an actor that raises."""
        if not self._watch.is_alive():
            raise RuntimeError("the replica has ended")

    def stop(self) -> None:
        """Have the replica drain, and wait for it. Further calls do nothing."""
        if not self._stopping:
            self._stopping = True
            try:
                self._control.sendall(b"stop\n")
            except OSError:
                return  # it has ended before
            self._watch.join(timeout=STOP_TIMEOUT_S)

    def __del__(self) -> None:
        # Ray Serve's word for a graceful shutdown. The end of a process in any other way is none.
        if hasattr(self, "_watch") and not sys.is_finalizing():
            self.stop()

    def _start(self, config: dict[str, Any]) -> dict[str, Any]:
        try:
            self._control.sendall(json.dumps(config).encode() + b"\n")
            with self._control.makefile("r", encoding="utf-8") as lines:
                line = lines.readline()
        except OSError:
            line = ""
        told: dict[str, Any] = json.loads(line) if line else {}
        return told

    def _wait(self) -> None:
        try:
            while self._control.recv(64):
                pass
        except OSError:
            pass  # a broken connection says the same as a closed one
        if not self._stopping:
            self._ended()


def _why(status: int, runtime: str) -> str:
    if status > BY_SIGNAL:
        name = signal.Signals(status - BY_SIGNAL).name
        return f"the runtime {runtime} crashed while it loaded it ({name})"
    return f"the replica's process ended with {status} before it had loaded its model"
