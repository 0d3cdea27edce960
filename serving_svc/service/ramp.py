"""The durable workflow of a rollout: load, shadow, ramp step by step, promote or roll back.

The record is the rollout's row: each step reads it, does what is missing and says so in the same
transaction as its effect. So a step that runs twice has the effect of once, and a person's word
(hold, abort, another table) is heard at the next look.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from service_kit.clock import Clock
from service_kit.errors import DomainError
from serving_svc.domain import (
    Action,
    Change,
    Look,
    Rollout,
    RolloutEvent,
    RolloutState,
    Verdict,
    rollouts,
    traffic,
)
from serving_svc.service.dataplane import DataPlane
from serving_svc.service.deploys import CHAMPION, PATIENT, Loader
from serving_svc.service.endings import end_rollout
from serving_svc.service.ports import Experiments, Registry, Store, Unit, WorkflowContext

ACTOR = "services/serving"
_log = logging.getLogger(__name__)
#: What steps answer, beside actions: ended by other hands, held by a person, done.
ENDED, HELD, DONE = "ENDED", "HELD", "DONE"


class RolloutWorkflow:
    """Steps of a rollout."""

    def __init__(
        self,
        store: Store,
        registry: Registry,
        experiments: Experiments,
        dataplane: DataPlane,
        loader: Loader,
        clock: Clock,
        reconcile: Callable[[], None],
    ) -> None:
        self._store = store
        self._registry = registry
        self._experiments = experiments
        self._dataplane = dataplane
        self._loader = loader
        self._clock = clock
        self._reconcile = reconcile

    def run(self, context: WorkflowContext, given: dict[str, Any]) -> dict[str, Any]:
        """Take a rollout to its end."""
        ids = (given["endpoint_id"], given["rollout_id"])
        try:
            self._prepare(context, ids)
            self._climb(context, ids)
        except DomainError as error:
            _log.warning("rollout failed", extra={"rollout": ids[1], "reason": error.reason})
            context.step("fail", self._end, ids, RolloutState.FAILED, [error.message], 0)
        return self._settle(context, ids)

    def _prepare(self, context: WorkflowContext, ids: tuple[str, str]) -> None:
        while not context.step("load", self._load, context, ids):
            pass
        context.step("stage", self._enter_staging, context.workflow_id, ids)
        context.step("experiment", self._begin_experiment, context.workflow_id, ids)

    def _climb(self, context: WorkflowContext, ids: tuple[str, str]) -> None:
        index, answer = 0, _answer(Verdict(Action.HOLD, ()))
        while True:
            entered = context.step(f"enter:{index}", self._enter, ids, index, answer)
            if entered == ENDED:
                return
            answer = _answer(Verdict(Action.HOLD, ()))
            while answer["action"] == Action.HOLD:
                answer = context.step("watch", self._watch, context, ids)
            if answer["action"] == Action.ADVANCE:
                index += entered == DONE
            elif self._leave(context, ids, answer) != HELD:
                return

    def _leave(self, context: WorkflowContext, ids: tuple[str, str], answer: Any) -> str:
        """Promote or roll back; HELD when a person stepped in just before a promotion."""
        reasons, samples = answer["reasons"], answer["samples"]
        if answer["action"] == Action.PROMOTE:
            try:
                # Before the switch: the registry may refuse a version that nobody approved.
                context.step("production", self._enter_production, context.workflow_id, ids)
            except DomainError as error:
                reasons = [f"the registry refused production: {error.message}", *reasons]
            else:
                state = RolloutState.PROMOTED
                return context.step("promote", self._end, ids, state, reasons, samples)
        elif answer["action"] == ENDED:
            return ENDED
        state = RolloutState.ROLLED_BACK
        return context.step("roll_back", self._end, ids, state, reasons, samples)

    def _settle(self, context: WorkflowContext, ids: tuple[str, str]) -> dict[str, Any]:
        """Tell the registry and the judge how it ended; the traffic stands already."""
        for name, function in (
            ("alias", self._move_alias),
            ("archive", self._stage_after),
            ("conclude", self._conclude),
        ):
            try:
                context.step(name, function, context.workflow_id, ids, retries=PATIENT)
            except DomainError as error:
                context.step(f"{name}:note", self._note, ids, name, error.message)
        return {"state": context.step("state", self._state, ids)}

    # Each of these is a step.

    def _load(self, context: WorkflowContext, ids: tuple[str, str]) -> bool:
        rollout = self._get(ids)
        return not rollout.active or self._loader.wait(context, ids[0], rollout.model_version)

    def _enter_staging(self, workflow_id: str, ids: tuple[str, str]) -> None:
        rollout = self._get(ids)
        key = f"{workflow_id}:stage"
        self._registry.transition(rollout.model_version, "STAGING", rollout.name, key)

    def _begin_experiment(self, workflow_id: str, ids: tuple[str, str]) -> None:
        with self._store.read() as unit:
            paired = unit.endpoint(ids[0]).outcome_independent
            rollout = unit.rollout(*ids)
        if not rollout.active or rollout.experiment:
            return
        key = f"{workflow_id}:experiment"
        name = self._experiments.create(rollout, paired=paired, request_id=key)
        with self._store.write() as unit:
            unit.endpoint(ids[0])
            unit.save_rollout(replace(unit.rollout(*ids), experiment=name))

    def _enter(self, ids: tuple[str, str], index: int, why: dict[str, Any]) -> str:
        """Set the table of a stage: DONE, HELD or ENDED."""
        with self._store.write() as unit:
            endpoint = unit.endpoint(ids[0])
            rollout = unit.rollout(*ids)
            if not self._may_go_on(unit, rollout):
                return ENDED
            if rollout.stage >= index:
                return DONE
            if rollout.paused:
                return HELD
            stage = rollouts.stages(rollout.strategy)[index]
            current = unit.table(ids[0], endpoint.generation)
            base = unit.table(ids[0], rollout.base_generation)
            assert current is not None
            assert base is not None
            now = self._clock.now()
            reason = f"rollout of {rollout.model_version}: {stage.name}"
            table = traffic.ramped(
                base,
                current,
                rollout.model_version,
                weight=stage.weight,
                shadow=stage.shadow,
                experiment=rollout.experiment,
                change=Change(ACTOR, reason, now),
            )
            unit.add_table(endpoint, table)
            event = RolloutEvent(stage.name, "advanced", tuple(why["reasons"]), why["samples"], now)
            unit.save_rollout(rollouts.entered(rollout, index, table.generation), event)
            unit.announce(rollout.name, "advanced", ACTOR, reason)
        self._dataplane.changed()
        return DONE

    def _watch(self, context: WorkflowContext, ids: tuple[str, str]) -> dict[str, Any]:
        """Look at the judge until something is to be done; HOLD only when asked to end."""
        while not context.interrupted:
            began = time.monotonic()
            rollout, verdict = self._look(ids)
            if verdict is None:
                return {"action": ENDED, "reasons": [], "samples": 0}
            if verdict.action is not Action.HOLD:
                return _answer(verdict)
            self._wait(context, began + rollout.strategy.interval.total_seconds())
        return _answer(Verdict(Action.HOLD, ()))

    def _end(
        self, ids: tuple[str, str], state: RolloutState, reasons: Sequence[str], samples: int
    ) -> str:
        """Give the traffic to whom it belongs: DONE or, before a promotion only, HELD."""
        with self._store.write() as unit:
            unit.endpoint(ids[0])
            rollout = unit.rollout(*ids)
            if rollout.paused and state is RolloutState.PROMOTED:
                return HELD
            if self._may_go_on(unit, rollout):
                end_rollout(unit, rollout, state, reasons, ACTOR, self._clock.now(), samples)
        self._dataplane.changed()
        self._reconcile()
        return DONE

    def _enter_production(self, workflow_id: str, ids: tuple[str, str]) -> None:
        rollout = self._get(ids)
        if rollout.active:
            key = f"{workflow_id}:production"
            self._registry.transition(rollout.model_version, "PRODUCTION", rollout.name, key)

    def _move_alias(self, workflow_id: str, ids: tuple[str, str]) -> None:
        rollout = self._get(ids)
        if rollout.state is RolloutState.PROMOTED:
            model = rollout.model_version.partition("/versions/")[0]
            key = f"{workflow_id}:alias"
            self._registry.set_alias(model, CHAMPION, rollout.model_version, rollout.reason, key)

    def _stage_after(self, workflow_id: str, ids: tuple[str, str]) -> None:
        rollout = self._get(ids)
        loser = rollout.model_version
        stage = "NONE"
        if rollout.state is RolloutState.PROMOTED:
            loser, stage = rollout.champion_version, "ARCHIVED"
        elif rollout.state is RolloutState.ROLLED_BACK:
            stage = "ARCHIVED"
        self._registry.transition(loser, stage, rollout.name, f"{workflow_id}:archive")

    def _conclude(self, workflow_id: str, ids: tuple[str, str]) -> None:
        rollout = self._get(ids)
        if rollout.experiment:
            conclusion = f"{rollout.state.value}: {rollout.reason}"
            self._experiments.conclude(rollout.experiment, conclusion, f"{workflow_id}:conclude")

    def _note(self, ids: tuple[str, str], step: str, message: str) -> None:
        with self._store.write() as unit:
            unit.endpoint(ids[0])
            event = RolloutEvent(step, "skipped", (message,), 0, self._clock.now())
            unit.save_rollout(unit.rollout(*ids), event)

    def _state(self, ids: tuple[str, str]) -> str:
        return self._get(ids).state.value

    # Parts of steps.

    def _get(self, ids: tuple[str, str]) -> Rollout:
        with self._store.read() as unit:
            return unit.rollout(*ids)

    def _may_go_on(self, unit: Unit, rollout: Rollout) -> bool:
        """Whether the rollout is active and the traffic its own; else it is ended as aborted."""
        if not rollout.active:
            return False
        endpoint = unit.endpoint(rollout.endpoint_id)
        if endpoint.generation == rollout.table_generation:
            return True
        table = unit.table(rollout.endpoint_id, endpoint.generation)
        by = table.actor if table else "somebody"
        why = (f"the traffic was changed by {by} meanwhile",)
        end_rollout(unit, rollout, RolloutState.ABORTED, why, ACTOR, self._clock.now())
        return False

    def _look(self, ids: tuple[str, str]) -> tuple[Rollout, Verdict | None]:
        """The rollout and what to do with it; no verdict when it has ended."""
        with self._store.read() as unit:
            paired = unit.endpoint(ids[0]).outcome_independent
            rollout = unit.rollout(*ids)
        look = self._ask(rollout, paired) if rollout.active and rollout.stage >= 0 else None
        # What a person said while the judge was asked counts, too.
        with self._store.write() as unit:
            unit.endpoint(ids[0])
            rollout = unit.rollout(*ids)
            if not self._may_go_on(unit, rollout):
                return rollout, None
            if look is not None and rollout.stage_samples < 0:
                rollout = replace(rollout, stage_samples=look.samples)
                unit.save_rollout(rollout)
        if look is not None:
            return rollout, rollouts.judge(rollout, look, self._clock.now())
        begins = rollout.stage < 0 and not rollout.paused
        return rollout, Verdict(Action.ADVANCE if begins else Action.HOLD, ())

    def _ask(self, rollout: Rollout, paired: bool) -> Look | None:
        # Of a randomized comparison nothing but the champion's answers can be counted in shadow.
        count_control = not paired and rollout.state is RolloutState.SHADOW
        try:
            return self._experiments.analyze(rollout.experiment, count_control=count_control)
        except DomainError as error:
            _log.warning("the judge does not answer", extra={"reason": error.reason})
            return None

    def _wait(self, context: WorkflowContext, until: float) -> None:
        while not context.interrupted and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, 0.2))


def _answer(verdict: Verdict) -> dict[str, Any]:
    return {
        "action": verdict.action.value,
        "reasons": list(verdict.reasons),
        "samples": verdict.samples,
    }
