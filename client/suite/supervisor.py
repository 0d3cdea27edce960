"""Starts the suite, watches over it and stops it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from client.errors import ModelyardError
from client.suite.lock import HomeLock, holder
from client.suite.plan import SERVICES, ProcessSpec, SuiteSettings, configure_valkey, plan
from client.suite.processes import Child, KeepsEnding
from client.suite.warden import Warden

READY_TIMEOUT = 120.0
STOP_TIMEOUT = 10.0
BACKING_STOP_TIMEOUT = 3.0
POLL = 0.25

Progress = Callable[[dict[str, bool]], None]
"""Is told, again and again, which parts are ready."""


class SuiteFailed(ModelyardError):  # noqa: N818
    """A part of the suite could not be started."""


class Supervisor:
    """Owns the processes of one suite. Must be used from the main thread."""

    def __init__(self, settings: SuiteSettings) -> None:
        self.settings = settings
        self.children = [
            Child(spec, settings.home / "logs" / f"{spec.name}.log") for spec in plan(settings)
        ]
        self._warden = Warden(settings.suite_id)
        self._lock = HomeLock(settings.home)
        self._stop_asked = False

    @property
    def state_file(self) -> Path:
        """File that says which suite runs in this home."""
        return self.settings.home / "run" / "suite.json"

    def start(self, progress: Progress = lambda _: None) -> float:
        """Starts everything and waits until the gateway and all services are ready.

        Returns:
            Seconds that it took.

        Raises:
            HomeInUse: A suite runs in this home already.
            SuiteFailed: A port is taken, a part ends at once, or time is up.
        """
        began = time.monotonic()
        os.umask(0o077)  # what a suite keeps is its owner's alone, and so it is in its children
        self._lock.take()
        self.settings.home.chmod(0o700)
        check_ports([child.spec for child in self.children])
        if not self.settings.redis_url:
            configure_valkey(self.settings)
        self._warden.start()
        for child in self.children:
            self._start(child)
        self._write_state()
        while True:
            ready = self._readiness()
            progress(ready)
            if all(ready.values()):
                return time.monotonic() - began
            self.revive()
            if time.monotonic() - began > READY_TIMEOUT:
                raise SuiteFailed(self._complaint(ready))
            if self._stop_asked:
                raise SuiteFailed("stopped before it was ready")
            time.sleep(POLL)

    def watch(self) -> None:
        """Keeps the suite alive until someone asks it to stop."""
        while not self._stop_asked:
            if self.revive():
                self._write_state()
            time.sleep(POLL)

    def revive(self) -> bool:
        """Starts again what has ended by itself; True when there was something.

        Raises:
            KeepsEnding: A part that the suite cannot do without ends again and again.
        """
        due = [child for child in self.children if child.ended() and self._restart_due(child)]
        for child in due:
            self._start(child)
        return bool(due)

    def _restart_due(self, child: Child) -> bool:
        if child.given_up:
            return False
        try:
            return child.restart_due()
        except KeepsEnding:
            if child.spec.vital:
                raise
            child.given_up = True
            self._write_state()
            return False

    def stop(self) -> None:
        """Stops everything, services before what they stand on; nothing that is another's."""
        if not self._lock.held:
            return
        deadline = time.monotonic() + STOP_TIMEOUT
        backing = {"valkey", "ray", "mlflow"}
        fronts = [child for child in self.children if child.spec.name not in backing]
        for group in (fronts, [child for child in self.children if child.spec.name in backing]):
            for child in group:
                child.ask_to_stop()
            if group is not fronts:
                # Nothing stands on these any more: Ray would drain for half a minute.
                deadline = min(deadline, time.monotonic() + BACKING_STOP_TIMEOUT)
            for child in group:
                child.stop(deadline)
        self._warden.stop()
        self.state_file.unlink(missing_ok=True)
        self._lock.release()

    def on_signal(self) -> None:
        """Lets SIGINT and SIGTERM end `watch`."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._ask_to_stop)

    def _start(self, child: Child) -> None:
        child.start()
        self._warden.note(child.pid)

    def _ask_to_stop(self, _number: int, _frame: FrameType | None) -> None:
        self._stop_asked = True

    def _readiness(self) -> dict[str, bool]:
        ready = {
            child.spec.name: listens(child.spec.port)
            for child in self.children
            if not child.given_up
        }
        if ready["gateway"]:
            ready |= gateway_readiness(self.settings.url)
        return ready

    def _complaint(self, ready: dict[str, bool]) -> str:
        waiting = [child for child in self.children if not ready.get(child.spec.name, True)]
        logs = "\n".join(f"--- {each.log}\n{each.tail()}" for each in waiting)
        names = ", ".join(each.spec.name for each in waiting)
        return f"not ready after {READY_TIMEOUT:.0f} s: {names}\n{logs}"

    def _write_state(self) -> None:
        self.state_file.parent.mkdir(parents=True, exist_ok=True)
        state = {
            "pid": os.getpid(),
            "url": self.settings.url,
            "processes": {
                child.spec.name: 0 if child.given_up else child.pid for child in self.children
            },
        }
        scratch = self.state_file.with_suffix(".tmp")
        scratch.write_text(json.dumps(state, indent=2))
        scratch.replace(self.state_file)


def check_ports(specs: list[ProcessSpec]) -> None:
    """Refuses to start over somebody else's ports."""
    taken = [(spec.name, port) for spec in specs for port in spec.ports if listens(port)]
    if taken:
        names = ", ".join(f"{name} ({port})" for name, port in taken)
        raise SuiteFailed(
            f"ports are taken: {names}. Is a suite running already (`modelyard down`)? "
            "Otherwise choose others with `--port`."
        )


def listens(port: int) -> bool:
    """Whether something listens on a local port."""
    with socket.socket() as probe:
        probe.settimeout(0.2)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def gateway_readiness(url: str) -> dict[str, bool]:
    """What the gateway says of itself and of each service."""
    try:
        # Asked again and again while processes start: urllib costs a tenth of a fresh client.
        with urllib.request.urlopen(f"{url}/readyz", timeout=2.0) as answer:  # noqa: S310
            found = json.load(answer).get("dependencies", {})
    except (OSError, ValueError):
        return {"gateway": False}
    services = {area: bool(found.get(area, {}).get("ok")) for area in SERVICES}
    return {"gateway": True, **services}


def running_suite(home: Path) -> dict[str, object] | None:
    """State of the suite that runs in a home; None when none does."""
    pid = holder(home)
    if pid is None:
        return None  # whatever a file says: its process may be somebody else's by now
    try:
        state: dict[str, object] = json.loads((home / "run" / "suite.json").read_text())
    except (OSError, ValueError):
        return None
    return state if state.get("pid") == pid else None


def suites_below(home: Path) -> list[Path]:
    """Homes directly below a folder in which suites run, as the demo's is below the default one."""
    found = sorted(lock.parent.parent for lock in home.glob("*/run/lock"))
    return [each for each in found if holder(each) is not None]


def stop_running(home: Path) -> bool:
    """Asks a running suite's launcher to stop and waits for its end; False without one."""
    pid = holder(home)
    if pid is None:
        return False
    with contextlib.suppress(ProcessLookupError):  # it ends by itself at this moment
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_TIMEOUT + 10
    while holder(home) is not None:
        if time.monotonic() > deadline:
            raise SuiteFailed(f"the launcher (pid {pid}) does not stop; kill -9 it: nothing stays")
        time.sleep(POLL)
    return True
