"""Forgets rows now and then, on a thread of its own."""

from __future__ import annotations

import logging
import threading

from sqlalchemy import Engine

from experiment_svc.service import Retention
from experiment_svc.storage import SqlJournal
from service_kit.database import transaction

EVERY_S = 60.0
_log = logging.getLogger(__name__)


class Upkeep:
    """Sweeps once a minute, in short transactions while there is something to forget."""

    def __init__(self, engine: Engine, retention: Retention, every: float = EVERY_S) -> None:
        self._engine = engine
        self._retention = retention
        self._every = every
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin."""
        self._stopping.clear()
        self._thread = threading.Thread(target=self._run, name="upkeep", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End after the transaction at hand."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(timeout=2)
            self._thread = None

    def sweep_once(self) -> int:
        """Forget some rows; gives their number."""
        with transaction(self._engine) as session:
            return self._retention.sweep(SqlJournal(session))

    def _run(self) -> None:
        while not self._stopping.wait(self._every):
            try:
                while self.sweep_once() and not self._stopping.is_set():
                    pass
            except Exception:
                _log.warning("old rows could not be forgotten", exc_info=True)
