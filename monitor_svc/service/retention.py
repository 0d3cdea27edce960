"""Forgetting: predictions and labels older than any label may be late."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from functools import partial

from monitor_svc.service.ports import Store, Transactions
from service_kit.clock import Clock
from service_kit.periodic import Periodic

_EVERY_S = 600.0
_BATCH = 5_000
_MICROSECOND = timedelta(microseconds=1)


class Retention(Periodic):
    """Deletes predictions by event time, with their outcomes, in small transactions.

    Outcomes of predictions that nobody monitors go by their time of arrival, for the time that
    they tell may be any. Sketches and reports stay.

    Args:
        transactions: Opens a transaction.
        keep: How far behind an endpoint's newest prediction one is kept; a label that comes later
            finds nothing to belong to. An outcome waits as long for its prediction.
        clock: Wall clock; only arrivals go by it.
    """

    def __init__(self, transactions: Transactions, keep: timedelta, clock: Clock) -> None:
        super().__init__("retention", _EVERY_S, at_once=False)
        self._transactions = transactions
        self._keep = keep
        self._clock = clock

    def work(self) -> bool:
        """Delete what is too old."""
        self.run_once()
        return False

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
        arrived = self._clock.now() - self._keep
        self._forget(lambda store: store.forget_lone_outcomes(arrived, _BATCH))
        return sum(
            self._forget(partial(_forget_labels, endpoint, time - keep_us))
            for endpoint, time in newest.items()
        )

    def _forget(self, some: Callable[[Store], int]) -> int:
        total, deleted = 0, _BATCH
        while deleted == _BATCH and not self.stopping:
            with self._transactions() as store:
                deleted = some(store)
            total += deleted
        return total


def _forget_labels(endpoint: str, before_us: int, store: Store) -> int:
    return store.forget_labels_before(endpoint, before_us, _BATCH)
