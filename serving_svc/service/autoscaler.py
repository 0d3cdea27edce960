"""Gives versions as many replicas as their load asks for."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

from service_kit.errors import DomainError, NotFound
from serving_svc.domain import Deployment
from serving_svc.domain.scaling import Bounds, Scaling, ScalingPolicy, decide
from serving_svc.service.dataplane import DataPlane
from serving_svc.service.ports import Store

LOOK_S = 1.0
#: Seconds for which the record is kept in mind: the load changes by the second, the bounds do not.
RECORD_S = 5.0
_log = logging.getLogger(__name__)


class Autoscaler:
    """Writes down how many replicas each version should have; the reconciler sees to it.

    Args:
        store: Endpoints and their deployments.
        dataplane: Knows what the replicas report.
        policy: The rule.
        reconcile: Wakes what starts and stops replicas.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        store: Store,
        dataplane: DataPlane,
        policy: ScalingPolicy,
        reconcile: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._dataplane = dataplane
        self._policy = policy
        self._reconcile = reconcile
        self._clock = clock
        self._scalings: dict[str, Scaling] = {}
        self._record: tuple[Mapping[str, Bounds], Sequence[Deployment]] = ({}, ())
        self._record_due = 0.0
        self._stopping = threading.Event()

    def start(self) -> None:
        """Begin, on a thread of its own."""
        threading.Thread(target=self._run, name="autoscaler", daemon=True).start()

    def stop(self) -> None:
        """End; replicas stay as many as they are."""
        self._stopping.set()

    def look_once(self) -> None:
        """Look at the load of every version, and write down what changes."""
        counts = self._counts()
        for deployment, count in counts:
            if self._write_down(deployment, count):
                message = "another count of replicas"
                _log.info(message, extra={"app": deployment.app, "replicas": count})
        if counts:
            self._record_due = 0.0
            self._reconcile()

    def _counts(self) -> list[tuple[Deployment, int]]:
        """The deployments whose count changes, with the new one."""
        now, loads = self._clock(), self._dataplane.loads()
        bounds, deployments = self._recorded(now, loads.keys())
        changed = []
        known, self._scalings = self._scalings, {}
        for each in deployments:
            load, bound = loads.get(each.version.name), bounds.get(each.endpoint_id)
            if load is None or bound is None:
                continue
            before = known.get(each.app, Scaling(now))
            count, after = decide(self._policy, bound, each.replicas, before, load, now)
            self._scalings[each.app] = after
            if count != each.replicas:
                changed.append((each, count))
        return changed

    def _recorded(
        self, now: float, reporting: Collection[str]
    ) -> tuple[Mapping[str, Bounds], Sequence[Deployment]]:
        """Bounds by endpoint, and the deployments; read when due, or for a new version."""
        known = {each.version.name for each in self._record[1]}
        if now >= self._record_due or not known.issuperset(reporting):
            with self._store.read() as unit:
                bounds = {
                    each.endpoint_id: Bounds(each.min_replicas, each.max_replicas)
                    for each in unit.endpoints()
                }
                wanted = [each for each in unit.deployments() if each.wanted and not each.failure]
            self._record, self._record_due = (bounds, wanted), now + RECORD_S
        return self._record

    def _write_down(self, seen: Deployment, count: int) -> bool:
        with self._store.write() as unit:
            try:
                unit.endpoint(seen.endpoint_id)
            except NotFound:
                return False
            now = {each.app: each for each in unit.deployments(seen.endpoint_id)}.get(seen.app)
            # Somebody may have changed it since.
            if now is None or not now.wanted or now.replicas != seen.replicas:
                return False
            unit.save_deployment(replace(now, replicas=count))
            return True

    def _run(self) -> None:
        while not self._stopping.wait(LOOK_S):
            try:
                self.look_once()
            except DomainError as error:
                _log.debug("can't look at the load", extra={"reason": error.reason})
            except Exception:
                _log.exception("the autoscaler stumbled")
