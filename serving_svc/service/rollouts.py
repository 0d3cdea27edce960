"""Use cases about rollouts; their way itself is in `ramp`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from service_kit.clock import Clock
from service_kit.errors import FailedPrecondition
from service_kit.ids import uuid7_str
from service_kit.paging import Page
from serving_svc.domain import Rollout, RolloutEvent, RolloutState, Strategy, rollouts
from serving_svc.domain import endpoints as endpoint_rules
from serving_svc.service import loading
from serving_svc.service.dataplane import DataPlane
from serving_svc.service.endings import end_rollout
from serving_svc.service.endpoints import check_model, resolve_version, table_in_force
from serving_svc.service.ports import AnswerT, Engine, MessageT, Registry, RequestKey, Store, Unit

ROLLOUT_WORKFLOW = "serving.rollout"


class RolloutService:
    """Starts, shows, holds and ends rollouts."""

    def __init__(
        self,
        store: Store,
        registry: Registry,
        dataplane: DataPlane,
        engine: Engine,
        clock: Clock,
        reconcile: Callable[[], None],
    ) -> None:
        self._store = store
        self._registry = registry
        self._dataplane = dataplane
        self._engine = engine
        self._clock = clock
        self._reconcile = reconcile

    def create_rollout(
        self,
        endpoint_id: str,
        model_version: str,
        strategy: Strategy,
        actor: str,
        key: RequestKey[Rollout, MessageT],
    ) -> MessageT:
        """Start the rollout of a version.

        Raises InvalidArgument, NotFound, FailedPrecondition (`NO_TRAFFIC_TABLE`,
        `ROLLOUT_ACTIVE`, `DEPLOYMENT_ACTIVE`, `ALREADY_CHAMPION`, `TRAFFIC_SPLIT`).
        """
        full = rollouts.resolved(strategy)
        version = resolve_version(self._registry, model_version)
        begun: list[str] = []

        def build(unit: Unit) -> Rollout:
            endpoint = unit.endpoint(endpoint_id)
            check_model(endpoint, version)
            table = table_in_force(unit, endpoint)
            active = unit.active_rollouts(endpoint_id)
            endpoint_rules.refuse_while_busy(endpoint, active[0].name if active else "")
            if table.champion_version == version.name:
                raise FailedPrecondition("ALREADY_CHAMPION", "the version is the champion")
            if not table.steady:
                raise FailedPrecondition(
                    "TRAFFIC_SPLIT", "give the champion all the traffic before a rollout"
                )
            now = self._clock.now()
            rollout = Rollout(
                rollout_id=uuid7_str(),
                endpoint_id=endpoint_id,
                model_version=version.name,
                champion_version=table.champion_version,
                strategy=full,
                created=now,
                actor=actor,
                base_generation=table.generation,
                table_generation=table.generation,
            )
            started = RolloutEvent("loading", "started", (), 0, now)
            unit.add_rollout(rollout)
            unit.save_rollout(rollout, started)
            loading.want(unit, endpoint, version, now)
            unit.announce(rollout.name, "started", actor, "")
            begun.append(rollout.rollout_id)
            return replace(rollout, events=(started,))

        answer = self._write(key, build)
        for rollout_id in begun:
            self._start(endpoint_id, rollout_id)
        return answer

    def get_rollout(self, endpoint_id: str, rollout_id: str) -> Rollout:
        """A rollout with its events; raises NotFound (`ROLLOUT_NOT_FOUND`)."""
        with self._store.read() as unit:
            return unit.rollout(endpoint_id, rollout_id)

    def list_rollouts(self, endpoint_id: str, page: Page) -> tuple[list[Rollout], str]:
        """Rollouts of an endpoint, newest first, and where the next page begins."""
        with self._store.read() as unit:
            unit.endpoint(endpoint_id)
            found = unit.rollouts(endpoint_id, page.offset_token, page.size + 1)
        shown = list(found[: page.size])
        return shown, shown[-1].rollout_id if len(found) > page.size else ""

    def pause_rollout(
        self, ids: tuple[str, str], reason: str, actor: str, key: RequestKey[Rollout, MessageT]
    ) -> MessageT:
        """Hold a rollout at its step; the judge may still take traffic away.

        Raises NotFound, FailedPrecondition (`ROLLOUT_ENDED`).
        """
        return self._set_paused(ids, True, reason, actor, key)

    def resume_rollout(
        self, ids: tuple[str, str], actor: str, key: RequestKey[Rollout, MessageT]
    ) -> MessageT:
        """Let a held rollout go on.

        Raises NotFound, FailedPrecondition (`ROLLOUT_ENDED`).
        """
        return self._set_paused(ids, False, "", actor, key)

    def abort_rollout(
        self, ids: tuple[str, str], reason: str, actor: str, key: RequestKey[Rollout, MessageT]
    ) -> MessageT:
        """End a rollout and give all traffic back to the champion at once.

        Raises NotFound, FailedPrecondition (`ROLLOUT_ENDED`).
        """

        def build(unit: Unit) -> Rollout:
            unit.endpoint(ids[0])
            rollout = unit.rollout(*ids)
            rollouts.refuse_ended(rollout)
            why = (reason or f"aborted by {actor}",)
            end_rollout(unit, rollout, RolloutState.ABORTED, why, actor, self._clock.now())
            return unit.rollout(*ids)

        return self._write(key, build)

    def resume(self) -> None:
        """Start the workflows of rollouts that were recorded and perhaps not started."""
        with self._store.read() as unit:
            active = unit.active_rollouts()
        for rollout in active:
            self._start(rollout.endpoint_id, rollout.rollout_id)

    def _set_paused(
        self,
        ids: tuple[str, str],
        paused: bool,
        reason: str,
        actor: str,
        key: RequestKey[Rollout, MessageT],
    ) -> MessageT:
        def build(unit: Unit) -> Rollout:
            unit.endpoint(ids[0])
            rollout = unit.rollout(*ids)
            rollouts.refuse_ended(rollout)
            if rollout.paused != paused:
                decision = "paused" if paused else "resumed"
                why = tuple(filter(None, (reason, f"by {actor}")))
                event = RolloutEvent(rollout.stage_name, decision, why, 0, self._clock.now())
                unit.save_rollout(replace(rollout, paused=paused), event)
                unit.announce(rollout.name, decision, actor, reason)
            return unit.rollout(*ids)

        return self._write(key, build)

    def _write(
        self, key: RequestKey[AnswerT, MessageT], build: Callable[[Unit], AnswerT]
    ) -> MessageT:
        with self._store.write() as unit:
            answer = unit.once(key, lambda: build(unit))
        self._dataplane.changed()
        self._reconcile()
        return answer

    def _start(self, endpoint_id: str, rollout_id: str) -> None:
        given = {"endpoint_id": endpoint_id, "rollout_id": rollout_id}
        self._engine.start(ROLLOUT_WORKFLOW, f"rollout-{rollout_id}", given)
