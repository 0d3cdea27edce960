"""Rows are forgotten when they can no longer change anything."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from experiment_svc.service.ports import Journal
from service_kit.clock import Clock

HOLD_FOR = timedelta(hours=1)
"""How long an outcome waits for its exposure: far longer than a stream lags behind another."""
HOLD_MOST = 500_000
ROWS_AT_ONCE = 20_000


@dataclass(frozen=True, slots=True)
class Retention:
    """The use case. The caller opens the transaction and calls again while rows go."""

    clock: Clock
    hold_for: timedelta = HOLD_FOR
    hold_most: int = HOLD_MOST

    def sweep(self, journal: Journal) -> int:
        """Forget some rows.

        Returns:
            Their number; when it is positive there may be more.
        """
        gone = journal.forget_settled(self.clock.now(), ROWS_AT_ONCE)
        before = self.clock.now() - self.hold_for
        return gone + journal.forget_held(before, self.hold_most, ROWS_AT_ONCE)
