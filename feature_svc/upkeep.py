"""Housekeeping beside the calls: files that nothing names."""

from __future__ import annotations

import logging
import threading

from sqlalchemy import Engine

from feature_svc.history import ParquetHistory
from feature_svc.storage import SqlRecords
from service_kit.database import reading

SECONDS_BETWEEN = 3_600.0
_log = logging.getLogger(__name__)


class Upkeep:
    """Tidies up at the start and every hour."""

    def __init__(self, engine: Engine, store: ParquetHistory) -> None:
        self._engine = engine
        self._store = store
        self._stopping = threading.Event()

    def start(self) -> None:
        """Begins, in a thread of its own."""
        threading.Thread(target=self._run, name="upkeep", daemon=True).start()

    def stop(self) -> None:
        """Ends."""
        self._stopping.set()

    def tidy(self) -> None:
        """Deletes what is no longer of use."""
        with reading(self._engine) as session:
            records = SqlRecords(session)
            used = {
                source: {file.name for file in records.files(source)}
                for source in records.definitions().data_sources
            }
        for source, names in used.items():
            self._store.sweep(source, names)

    def _run(self) -> None:
        while True:
            try:
                self.tidy()
            except Exception:
                _log.exception("upkeep failed")
            if self._stopping.wait(SECONDS_BETWEEN):
                return
