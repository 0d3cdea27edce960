"""Forgets rows now and then, on a thread of its own."""

from __future__ import annotations

from sqlalchemy import Engine

from experiment_svc.service import Retention
from experiment_svc.storage import SqlJournal
from service_kit.database import transaction
from service_kit.periodic import Periodic

EVERY_S = 60.0


class Upkeep(Periodic):
    """Sweeps once a minute, in short transactions while there is something to forget."""

    def __init__(self, engine: Engine, retention: Retention, every: float = EVERY_S) -> None:
        super().__init__("upkeep", every, at_once=False)
        self._engine = engine
        self._retention = retention

    def work(self) -> bool:
        """Forget some rows; again at once where there were any."""
        return self.sweep_once() > 0

    def sweep_once(self) -> int:
        """Forget some rows; gives their number."""
        with transaction(self._engine) as session:
            return self._retention.sweep(SqlJournal(session))
