"""DBOS asks its database every second, on several threads; here only while something goes on."""

from __future__ import annotations

import importlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

launching: Any = importlib.import_module("dbos._dbos")
"""Where DBOS starts its threads; its types do not show that."""

CALM_S = 15.0
"""Seconds between two looks for what another process has asked for, or left behind."""
LASTING_S = 5.0
"""Seconds after a start or an end in which DBOS looks as often as it would by itself."""


class Pace:
    """How often DBOS looks for work: as it would itself while there is some, seldom otherwise.

    Args:
        busy: Whether a workflow is under way in this process.
    """

    def __init__(self, busy: Callable[[], bool]) -> None:
        self._busy = busy
        self._stirred = time.monotonic()
        self._changed = threading.Condition()
        self._turn = 0

    def stir(self) -> None:
        """Something was asked for or has ended: look at once, and for a while."""
        with self._changed:
            self._stirred = time.monotonic()
            self._turn += 1
            self._changed.notify_all()

    @contextmanager
    def of(self, dbos: Any) -> Iterator[None]:
        """Have the threads that DBOS starts meanwhile go at this pace.

        It has no setting for that: its threads wait for the event that ends them, and are given
        one that knows this pace.
        """
        dbos._background_jobs_stop_event = Unhurried(self)  # noqa: SLF001
        ending = Unhurried(self)
        dbos.background_thread_stop_events.append(ending)
        original = launching.queue_thread
        launching.queue_thread = lambda _, dbos: original(ending, dbos)
        try:
            yield
        finally:
            launching.queue_thread = original

    def rest(self, seconds: float, ended: Callable[[], bool]) -> None:
        """Wait `seconds` while something goes on, else until it does, but not for ever."""
        began = time.monotonic()
        with self._changed:
            turn = self._turn
            while not ended() and turn == self._turn:
                lately = time.monotonic() - self._stirred < LASTING_S
                rest = seconds if lately or self._busy() else max(seconds, CALM_S)
                left = began + rest - time.monotonic()
                if left <= 0:
                    return
                self._changed.wait(left)


class Unhurried(threading.Event):
    """An event whose `wait` ends early when there is work, and late when there is none."""

    def __init__(self, pace: Pace) -> None:
        super().__init__()
        self._pace = pace

    def set(self) -> None:
        """End who waits."""
        super().set()
        self._pace.stir()

    def wait(self, timeout: float | None = None) -> bool:
        """Whether it was set; waits as long as the pace wants it."""
        if timeout is None:
            return super().wait()
        if timeout > 0:
            self._pace.rest(timeout, self.is_set)
        return self.is_set()
