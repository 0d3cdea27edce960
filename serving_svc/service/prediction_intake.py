"""Keeps the prediction log up with its stream, and in good order, on one thread."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Protocol

from service_kit.errors import DomainError
from serving_svc.service.predictions import LogCare

CARE_EVERY_S = 30.0
_MOST_PAUSE_S = 5.0
_log = logging.getLogger(__name__)


class Consumer(Protocol):
    """The stream's consuming side."""

    def poll_once(self, block: float = 0.0) -> int:
        """Take one batch; gives the number of events read."""
        ...

    def stop(self) -> None: ...


class PredictionIntake:
    """Takes what came since the last time, every few seconds: fewer, larger files.

    Args:
        every: Seconds between two looks at the stream.
        batch: Events that the consumer takes at most in one poll.
    """

    def __init__(self, consumer: Consumer, care: LogCare, every: float, batch: int) -> None:
        self._consumer = consumer
        self._every = every
        self._batch = batch
        self._tasks: tuple[tuple[str, Callable[[], int]], ...] = (
            ("merge", care.merge),
            ("forget", care.forget),
            ("tidy", care.tidy),
        )
        self._care_due = 0.0
        self._wanted = 0
        self._done = 0
        self._changed = threading.Condition()
        self._stopping = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin."""
        self._thread = threading.Thread(target=self._run, name="prediction-log", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End after the batch at hand."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(timeout=2.0)
            self._thread = None
        self._consumer.stop()

    def catch_up(self, timeout: float) -> bool:
        """Take in what the stream holds now; False when that is not done in `timeout` seconds."""
        deadline = time.monotonic() + timeout
        with self._changed:
            # A pass that is under way may have looked at the stream before we were asked.
            self._wanted = ours = max(self._wanted, self._done + 2)
            self._changed.notify_all()
            while self._done < ours and not self._stopping:
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                self._changed.wait(left)
            return self._done >= ours

    def _run(self) -> None:
        pause = 0.0
        while self._pause(pause):
            try:
                self._drain()
                pause = self._every
                self._passed()
            except DomainError as error:
                _log.warning("the prediction log waits", extra={"reason": error.reason})
                pause = self._failed()
            except Exception:
                _log.exception("the prediction log stumbled")
                pause = self._failed()
            self._look_after()

    def _pause(self, seconds: float) -> bool:
        with self._changed:
            if not self._stopping and self._wanted <= self._done:
                self._changed.wait(seconds)
            return not self._stopping

    def _drain(self) -> None:
        while not self._stopping and self._consumer.poll_once() >= self._batch:
            pass

    def _passed(self) -> None:
        with self._changed:
            self._done += 1
            self._changed.notify_all()

    def _failed(self) -> float:
        # Whoever waits gives up in time by itself; trying again at once would help nobody.
        with self._changed:
            self._wanted = self._done
        return _MOST_PAUSE_S

    def _look_after(self) -> None:
        if time.monotonic() < self._care_due or self._stopping:
            return
        self._care_due = time.monotonic() + CARE_EVERY_S
        for name, task in self._tasks:
            try:
                task()
            except Exception:
                # The next one may go well, and the log can be read meanwhile.
                _log.exception("the prediction log can't be kept in order", extra={"task": name})
