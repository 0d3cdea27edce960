"""Work that a service does beside its calls, again and again, on a thread of its own."""

from __future__ import annotations

import logging
import threading
import time
from abc import ABC, abstractmethod

from service_kit.errors import Unavailable

STOP_WAIT_S = 2.0
#: Seconds after something happened in which more may follow.
LASTING_S = 30.0
_log = logging.getLogger(__name__)


class Periodic(ABC):
    """Does `work` at the start and then again after a pause, until it is stopped.

    What goes wrong is logged and does not end it. While something that it needs is away
    (`Unavailable`), which the service's readiness says already, it only tries again.

    Args:
        thread: Name of its thread.
        every: Seconds between two times.
        at_once: False to begin with a pause.
        calm: Seconds between two times while nothing has happened for `LASTING_S`, for work
            that is told of what happens (`stir`); by default `every`.
    """

    def __init__(
        self, thread: str, every: float, *, at_once: bool = True, calm: float | None = None
    ) -> None:
        self._name = thread
        self._every = every
        self._calm = every if calm is None else calm
        self._at_once = at_once
        self._stirred = time.monotonic()
        self._stop_asked = threading.Event()
        self._wakeup = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def stopping(self) -> bool:
        """Whether it was asked to end; long work looks at it now and then."""
        return self._stop_asked.is_set()

    def start(self) -> None:
        """Begin."""
        self._stop_asked.clear()
        self._wakeup.clear()
        self._stirred = time.monotonic()
        self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End after what is at hand."""
        self._stop_asked.set()
        self._wakeup.set()
        if self._thread is not None:
            self._thread.join(timeout=STOP_WAIT_S)
            self._thread = None

    def stir(self) -> None:
        """Something has happened: work now, and at short intervals for a while."""
        self._stirred = time.monotonic()
        self._wakeup.set()

    @abstractmethod
    def work(self) -> bool:
        """Do it once; True when there is more to do without a pause."""

    def _run(self) -> None:
        more = self._at_once
        while more or not self._paused():
            more = not self.stopping and self._worked()

    def _paused(self) -> bool:
        """Wait for the next time; whether it is to end."""
        lately = time.monotonic() - self._stirred < LASTING_S
        self._wakeup.wait(self._every if lately else self._calm)
        self._wakeup.clear()
        return self.stopping

    def _worked(self) -> bool:
        try:
            return self.work()
        except Unavailable as error:
            _log.debug("%s has to wait", self._name, extra={"reason": error.reason})
        except Exception:
            _log.exception("%s went wrong", self._name)
        return False
