"""References that follow the champion: read from the peers, switched in one transaction."""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import timedelta

from monitor_svc.domain.monitors import Following, Monitor
from monitor_svc.service.monitors import Monitoring
from monitor_svc.service.ports import Lineages, Transactions
from service_kit import metrics
from service_kit.clock import Clock
from service_kit.errors import (
    DomainError,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
)
from service_kit.periodic import Periodic

#: How long a monitor belongs to who took it; longer than the calls that it takes.
LEASE = timedelta(seconds=120)
_LONGEST_PAUSE_S = 300.0
_MOST_DOUBLINGS = 10
_POLL_S, _CALM_S = 0.5, 5.0
_BATCH = 20
#: What will be the same however often one asks; all else is tried again.
_SETTLED = (NotFound, InvalidArgument, FailedPrecondition)
_log = logging.getLogger(__name__)


class Follower(Periodic):
    """Makes the references that monitors are due to follow to, on a thread of its own.

    That a version is to be followed is on record before anything is done about it, and stays so
    until the transaction that switches. A monitor is taken with a lease; who dies in between
    leaves it to be done again. A peer that is away is asked again, ever more seldom, for as long
    as the version answers. Who records that a version is to be followed tells it so (`stir`).

    Args:
        transactions: Opens a transaction.
        monitoring: Makes references and switches to them.
        lineages: Says where versions come from.
        clock: Wall clock; only retries go by it.
    """

    def __init__(
        self, transactions: Transactions, monitoring: Monitoring, lineages: Lineages, clock: Clock
    ) -> None:
        super().__init__("follower", _POLL_S, calm=_CALM_S)
        self._transactions = transactions
        self._monitoring = monitoring
        self._lineages = lineages
        self._clock = clock
        self._results = metrics.counter(
            "monitor_followings_total", "Tries to follow the champion.", ["monitor", "result"]
        )

    def work(self) -> bool:
        """Try every monitor that is due."""
        return self.run_once() == _BATCH

    def run_once(self) -> int:
        """Try every monitor that is due once; gives their number."""
        claimed = self._claim()
        for monitor in claimed:
            if monitor.following is not None:
                self._try(monitor, monitor.following)
        return len(claimed)

    def _claim(self) -> list[Monitor]:
        now = self._clock.now()
        claimed: list[Monitor] = []
        with self._transactions() as store:
            if not store.due_followings(now, 1):
                return claimed
            store.lock()
            for monitor in store.due_followings(now, _BATCH):
                if (following := monitor.following) is not None:
                    taken = replace(following, due=now + LEASE, attempts=following.attempts + 1)
                    claimed.append(replace(monitor, following=taken))
                    store.save_monitor(claimed[-1])
        return claimed

    def _try(self, monitor: Monitor, following: Following) -> None:
        try:
            result = self._follow(monitor, following)
        except _SETTLED as error:
            result = self._mark(monitor, replace(following, due=None, reason=error.message))
        except DomainError as error:
            result = self._mark(monitor, self._postponed(following, error.message))
        except Exception as error:
            _log.exception("a reference could not be followed")
            reason = f"failed with {type(error).__name__}"
            result = self._mark(monitor, self._postponed(following, reason))
        self._results.labels(monitor.id, result).inc()

    def _follow(self, monitor: Monitor, following: Following) -> str:
        name = self._lineages.training_set(following.version)
        if not name:
            reason = "its lineage names no training set"
            return self._mark(monitor, replace(following, due=None, reason=reason))
        reference = None
        if name != monitor.reference_training_set or not monitor.reference_rows:
            wanted = replace(monitor, reference_training_set=name)
            reference = self._monitoring.prepare_reference(wanted, None)
        with self._transactions() as store:
            if self._monitoring.follow(store, monitor, name, reference):
                return "followed"
        # The monitor was changed meanwhile: at once again, if it is still to follow that version.
        return self._mark(monitor, replace(following, due=self._clock.now()))

    def _postponed(self, following: Following, reason: str) -> Following:
        pause = min(0.5 * 2 ** min(following.attempts, _MOST_DOUBLINGS), _LONGEST_PAUSE_S)
        due = self._clock.now() + timedelta(seconds=pause)
        return replace(following, due=due, reason=reason)

    def _mark(self, monitor: Monitor, following: Following) -> str:
        with self._transactions() as store:
            store.lock()
            current = store.monitor(monitor.id)
            if current and current.following and current.following.version == following.version:
                store.save_monitor(replace(current, following=following))
        return "kept" if following.due is None else "postponed"
