"""Ready or not: the pings of the real dependencies, each by name."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal

from service_kit import metrics

State = Literal["starting", "ready", "not ready", "draining"]
Ping = Callable[[], None]
"""Returns when a dependency answers and raises when it does not."""

_log = logging.getLogger(__name__)
_up = metrics.gauge("dependency_up", "1 while a dependency answers.", ("dependency",))


class Readiness:
    """Pings each dependency again and again and says whether all of them answer.

    Args:
        on_change: Told True when all answer and False when one no longer does.
        interval: Seconds between rounds while all is well; after a failed round at most one.
        timeout: Seconds after which a ping without an answer counts as failed.
    """

    def __init__(
        self, on_change: Callable[[bool], None], *, interval: float = 5.0, timeout: float = 3.0
    ) -> None:
        self.state: State = "starting"
        self._on_change = on_change
        self._interval = interval
        self._timeout = timeout
        self._dependencies: list[_Dependency] = []
        self._stopping = threading.Event()
        self._lock = threading.Lock()

    def start(self, pings: Mapping[str, Ping]) -> None:
        """Do the first round now and the others in a thread."""
        self._dependencies = [_Dependency(name, ping) for name, ping in pings.items()]
        self.check()
        threading.Thread(target=self._run, name="readiness", daemon=True).start()

    def drain(self) -> None:
        """Be unready from now on."""
        self._stopping.set()
        with self._lock:
            self.state = "draining"

    def serving(self) -> bool:
        """Whether requests are welcome."""
        return self.state == "ready"

    def check(self) -> bool:
        """Do one round; returns whether every dependency answered."""
        for dependency in self._dependencies:
            dependency.begin()
        end = time.monotonic() + self._timeout
        for dependency in self._dependencies:
            dependency.wait(end - time.monotonic())
        well = all(dependency.failure() is None for dependency in self._dependencies)
        self._become("ready" if well else "not ready")
        return well

    def report(self) -> dict[str, Any]:
        """The state and what each dependency said last, for ``/readyz``."""
        return {
            "status": self.state,
            "dependencies": {each.name: each.report() for each in self._dependencies},
        }

    def _run(self) -> None:
        while not self._stopping.wait(
            self._interval if self.state == "ready" else min(1.0, self._interval)
        ):
            self.check()

    def _become(self, state: State) -> None:
        with self._lock:
            before = self.state
            if before in (state, "draining"):
                return
            self.state = state
        failing = {d.name: d.failure() for d in self._dependencies if d.failure() is not None}
        level = logging.INFO if state == "ready" else logging.WARNING
        _log.log(level, "service is %s", state, extra={"failing": failing})
        self._on_change(state == "ready")


class _Dependency:
    """One ping; a hanging one occupies one thread and no more."""

    def __init__(self, name: str, ping: Ping) -> None:
        self.name = name
        self._ping = ping
        self._done = threading.Event()
        self._done.set()
        self._error: str | None = "not asked yet"
        self._millis = 0.0

    def begin(self) -> None:
        if self._done.is_set():
            self._done.clear()
            threading.Thread(target=self._ask, name=f"ping-{self.name}", daemon=True).start()

    def wait(self, seconds: float) -> None:
        self._done.wait(max(0.0, seconds))
        _up.labels(self.name).set(self.failure() is None)

    def failure(self) -> str | None:
        # Only the kind of error: its text may hold addresses and passwords.
        return self._error if self._done.is_set() else "no answer in time"

    def report(self) -> dict[str, Any]:
        error = self.failure()
        if error is not None:
            return {"ok": False, "error": error}
        return {"ok": True, "milliseconds": round(self._millis, 2)}

    def _ask(self) -> None:
        started = time.perf_counter()
        try:
            self._ping()
            self._error = None
        except Exception as error:
            self._error = type(error).__name__
        finally:
            self._millis = (time.perf_counter() - started) * 1e3
            self._done.set()
