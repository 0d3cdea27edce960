"""The state of the data plane: replicas that are up and the tables in force, pushed on change."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

from service_kit.clock import Clock
from serving_svc.domain import Endpoint, Replica, TrafficTable
from serving_svc.domain.deployments import lost, relieved, usable
from serving_svc.domain.scaling import Load, loads
from serving_svc.service.ports import Store, Unit

#: Seconds after a start in which replicas that run already may say so before anything is pushed.
SETTLING_S = 5.0
SWEEP_S = 0.5


@dataclass(frozen=True, slots=True)
class Route:
    """How requests to one endpoint are answered."""

    endpoint: Endpoint
    table: TrafficTable
    signatures: dict[str, bytes]


@dataclass(frozen=True, slots=True)
class DataPlaneView:
    """The state of the data plane at one moment."""

    revision: int
    routes: Sequence[Route]
    replicas: Sequence[Replica]


class DataPlane:
    """Knows the replicas, and tells watchers the whole state after every change.

    Args:
        store: Tables in force.
        clock: When replicas report.
        interval: How often replicas report.
        settling: Seconds after the start for replicas of earlier days to report themselves.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        interval: timedelta = timedelta(seconds=2),
        settling: float = SETTLING_S,
    ) -> None:
        self.interval = interval
        self._store = store
        self._clock = clock
        self._replicas: dict[str, Replica] = {}
        self._changed = threading.Condition()
        # Of the clock, so that it grows over restarts too.
        self._revision = time.time_ns() // 1000
        self._built: DataPlaneView | None = None
        self._building = threading.Lock()
        self._settled_by = time.monotonic() + settling
        self._closing = threading.Event()

    def start(self) -> None:
        """Begin to look for lost replicas, on a thread of its own."""
        threading.Thread(target=self._sweep, name="replica-sweep", daemon=True).start()

    def stop(self) -> None:
        """End every watch."""
        self._closing.set()
        with self._changed:
            self._changed.notify_all()

    def report(self, replica: Replica) -> None:
        """A replica says that it lives."""
        with self._changed:
            before = self._replicas.get(replica.replica_id)
            self._replicas[replica.replica_id] = replica
        if before is None or _is_news(before, replica):
            self.changed()

    def relieves(self, replica: Replica) -> bool:
        """Whether a replica is an orphan that is needed no longer."""
        if not replica.orphaned:
            return False
        version = replica.model_version
        with self._store.read() as unit:
            deployments = [each for each in unit.deployments() if each.version.name == version]
        wanted = sum(each.replicas for each in deployments if each.wanted)
        with self._changed:
            others = [each for each in self._replicas.values() if each.model_version == version]
        return replica.replica_id in {each.replica_id for each in relieved(others, wanted)}

    def changed(self) -> None:
        """The record changed: push it."""
        with self._changed:
            self._revision = max(self._revision + 1, time.time_ns() // 1000)
            self._changed.notify_all()

    def live(self) -> dict[str, int]:
        """How many replicas take requests, by version."""
        with self._changed:
            return usable(self._replicas.values())

    def replicas(self) -> list[Replica]:
        """Replicas that are up."""
        with self._changed:
            return list(self._replicas.values())

    def loads(self) -> dict[str, Load]:
        """What the replicas of each version report together."""
        with self._changed:
            return loads(self._replicas.values())

    def wait_live(self, version: str, replicas: int, timeout: float) -> bool:
        """Wait until a version has so many replicas; False after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while usable(self._replicas.values()).get(version, 0) < replicas:
                left = deadline - time.monotonic()
                if left <= 0 or self._closing.is_set():
                    return False
                self._changed.wait(left)
        return True

    def view(self) -> DataPlaneView:
        """The present state."""
        with self._building:
            with self._changed:
                revision = self._revision
                replicas = [each for each in self._replicas.values() if not each.draining]
            if self._built is None or self._built.revision != revision:
                with self._store.read() as unit:
                    routes = _routes(unit)
                self._built = DataPlaneView(revision, routes, replicas)
            return self._built

    def watch(self, alive: Callable[[], bool] = lambda: True) -> Iterator[DataPlaneView]:
        """The state at once and after every change, until `alive` says no."""
        self._settle()
        seen = 0
        while alive() and not self._closing.is_set():
            view = self.view()
            if view.revision != seen:
                seen = view.revision
                yield view
            with self._changed:
                if self._revision == seen:
                    self._changed.wait(1.0)

    def sweep_once(self) -> None:
        """Forget the replicas that have missed their reports."""
        with self._changed:
            gone = lost(self._replicas.values(), self._clock.now(), self.interval)
            for replica in gone:
                del self._replicas[replica.replica_id]
        if gone:
            self.changed()

    def _settle(self) -> None:
        # A push without the replicas that have yet to report would make watchers drop them.
        while (left := self._settled_by - time.monotonic()) > 0:
            needed = {route.table.champion_version for route in self.view().routes}
            with self._changed:
                if needed <= usable(self._replicas.values()).keys() or self._closing.is_set():
                    return
                self._changed.wait(min(left, 0.5))

    def _sweep(self) -> None:
        while not self._closing.wait(SWEEP_S):
            self.sweep_once()


def _is_news(before: Replica, now: Replica) -> bool:
    same = replace(
        now, in_flight_rows=before.in_flight_rows, queue_us=before.queue_us, seen=before.seen
    )
    return same != before


def _routes(unit: Unit) -> list[Route]:
    signatures: dict[str, dict[str, bytes]] = {}
    for each in unit.deployments():
        kept = signatures.setdefault(each.endpoint_id, {})
        kept[each.version.name] = each.version.signature
    routes = []
    for endpoint in unit.endpoints():
        table = unit.table(endpoint.endpoint_id, endpoint.generation)
        if table is not None:
            routes.append(Route(endpoint, table, signatures.get(endpoint.endpoint_id, {})))
    return routes
