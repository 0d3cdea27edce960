"""Housekeeping beside the calls: files that nothing names."""

from __future__ import annotations

from sqlalchemy import Engine

from feature_svc.history import ParquetHistory
from feature_svc.storage import SqlRecords
from service_kit.database import reading
from service_kit.periodic import Periodic

SECONDS_BETWEEN = 3_600.0


class Upkeep(Periodic):
    """Tidies up at the start and every hour."""

    def __init__(self, engine: Engine, store: ParquetHistory) -> None:
        super().__init__("upkeep", SECONDS_BETWEEN)
        self._engine = engine
        self._store = store

    def work(self) -> bool:
        """Tidies up."""
        self.tidy()
        return False

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
