"""Feast at arm's length: imported when it is needed, or beforehand by a thread that waits."""

from __future__ import annotations

import logging
import threading
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from feature_svc.domain import Definitions
from service_kit.context import remaining

if TYPE_CHECKING:
    from feature_svc.feast_store import FeastStore

SECONDS_BEFORE_WARMING = 10.0
_log = logging.getLogger(__name__)


class LazyFeast:
    """Loads the online store by Feast, which is imported some seconds after the start.

    Its import takes some four seconds of a core, which a suite that is starting needs for better.
    """

    def __init__(self, folder: Path, project: str, redis_url: str) -> None:
        self._arguments = (folder, project, redis_url)
        self._lock = threading.Lock()
        self._store: FeastStore | None = None
        self._hurry = threading.Event()
        self._stopped = False

    def load(
        self, definitions: Definitions, view: str, rows: Any, start: datetime, end: datetime
    ) -> int:
        """Loads rows of a view, one an entity; gives the number written."""
        return self._feast().load(definitions, view, rows, start, end, remaining())

    def start(self) -> None:
        """Begins to wait for the time to import Feast."""
        threading.Thread(target=self._warm, name="feast-import", daemon=True).start()

    def stop(self) -> None:
        """Ends the wait."""
        self._stopped = True
        self._hurry.set()

    def hurry(self) -> None:
        """Says that Feast will be needed soon."""
        self._hurry.set()

    def _warm(self) -> None:
        self._hurry.wait(SECONDS_BEFORE_WARMING)
        if not self._stopped:
            try:
                self._feast()
            except Exception:
                _log.exception("Feast cannot be imported")

    def _feast(self) -> FeastStore:
        with self._lock:
            if self._store is None:
                from feature_svc.feast_store import FeastStore

                self._store = FeastStore(*self._arguments)
            return self._store
