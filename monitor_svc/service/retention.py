"""Forgetting: predictions and labels older than any label may be late."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from datetime import timedelta
from functools import partial

from monitor_svc.service.ports import Store, Transactions

_EVERY_S = 600.0
_BATCH = 5_000
_MICROSECOND = timedelta(microseconds=1)
_log = logging.getLogger(__name__)


class Retention:
    """Deletes rows by event time, in small transactions; sketches and reports stay.

    Args:
        transactions: Opens a transaction.
        keep: How far behind an endpoint's newest prediction one is kept; a label that comes later
            finds nothing to belong to.
    """

    def __init__(self, transactions: Transactions, keep: timedelta) -> None:
        self._transactions = transactions
        self._keep = keep
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin, on a thread of its own."""
        self._stopping.clear()
        self._thread = threading.Thread(target=self._run, name="retention", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End after the transaction at hand."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(timeout=2)
            self._thread = None

    def run_once(self) -> int:
        """Delete what is too old; gives the number of predictions deleted."""
        with self._transactions() as store:
            monitors = store.monitors(1_000, "")
        newest: dict[str, int] = {}
        for monitor in monitors:
            if monitor.watermark_us is not None:
                known = newest.get(monitor.endpoint, monitor.watermark_us)
                newest[monitor.endpoint] = max(known, monitor.watermark_us)
        keep_us = self._keep // _MICROSECOND
        self._forget(lambda store: store.forget_lone_outcomes(keep_us, _BATCH))
        return sum(
            self._forget(partial(_forget_labels, endpoint, time - keep_us))
            for endpoint, time in newest.items()
        )

    def _forget(self, some: Callable[[Store], int]) -> int:
        total, deleted = 0, _BATCH
        while deleted == _BATCH and not self._stopping.is_set():
            with self._transactions() as store:
                deleted = some(store)
            total += deleted
        return total

    def _run(self) -> None:
        while not self._stopping.wait(_EVERY_S):
            try:
                self.run_once()
            except Exception:
                _log.exception("old predictions could not be deleted")


def _forget_labels(endpoint: str, before_us: int, store: Store) -> int:
    return store.forget_labels_before(endpoint, before_us, _BATCH)
