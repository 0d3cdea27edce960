"""A run as a durable workflow: it goes on where it was after any restart."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

from service_kit.clock import Clock
from service_kit.errors import DomainError, FailedPrecondition, Internal
from training_svc.domain.pipelines import PipelineRun, RunState, StepRecord, StepState, ended
from training_svc.ports import Document, Records, Store
from training_svc.service import APPROVAL
from training_svc.steps import Job, Steps

APPROVAL_TIMEOUT = 30 * 24 * 3600.0
RETRIES = 5
"""Of a step whose peer is away: with the pauses between them, half a minute."""

logger = logging.getLogger(__name__)


class Context(Protocol):
    """What a workflow may do."""

    def check(self) -> None: ...
    def step(
        self, name: str, function: Callable[..., Any], *args: Any, retries: int = 3
    ) -> Any: ...
    def receive(self, topic: str, timeout: float) -> Document | None: ...


@dataclass(frozen=True)
class RunWorkflow:
    """Carries out a run, one durable step after the other, and keeps its record."""

    store: Store
    steps: Steps
    clock: Clock

    def __call__(self, context: Context, given: Document) -> Document:
        """Runs the workflow; every failure ends up in the run's record."""
        run_id = given["run"]
        try:
            state = self._carry_out(context, run_id)
        except DomainError as error:
            state = RunState.FAILED
            context.step("fail", self._finish, run_id, state, f"{error.reason}: {error.message}")
        except Exception as error:
            logger.exception("a run went wrong between its steps")
            state = RunState.FAILED
            context.step("fail", self._finish, run_id, state, f"INTERNAL: {type(error).__name__}")
        return {"state": state.value}

    def _carry_out(self, context: Context, run_id: str) -> RunState:
        steps = self.steps
        self._step(context, run_id, "validate", steps.collecting.validate)
        frozen = self._step(context, run_id, "snapshot", steps.collecting.snapshot)
        joined = self._step(context, run_id, "features", steps.collecting.join, frozen["snapshot"])
        trained = self._step(context, run_id, "train", steps.learning.train, joined)
        evaluated = self._step(context, run_id, "evaluate", steps.judging.evaluate, joined, trained)
        verdict = self._step(context, run_id, "compare", steps.judging.compare, evaluated)
        reasons = "; ".join(verdict["reasons"])
        if verdict["passed"] and verdict["refit"]:
            # A step of its own, so that what is registered does not depend on a second training.
            trained = self._step(
                context, run_id, "refit", steps.learning.refit, joined, trained, within="register"
            )
        registered = self._step(
            context,
            run_id,
            "register",
            steps.releasing.register,
            joined,
            trained,
            evaluated,
            verdict,
        )
        if not verdict["passed"]:
            return self._end(context, run_id, RunState.REFUSED, reasons)
        refusal = self._approval(context, run_id)
        if refusal is not None:
            return self._end(context, run_id, RunState.REFUSED, refusal)
        # What is chosen is kept, so that a second try does the same as the first.
        chosen = self._step(context, run_id, "choose", steps.releasing.choose, within="roll_out")
        version = registered["model_version"]
        self._step(context, run_id, "roll_out", steps.releasing.roll_out, version, chosen)
        return self._end(context, run_id, RunState.SUCCEEDED, reasons)

    def _approval(self, context: Context, run_id: str) -> str | None:
        """Waits for a person where one is asked for; gives the reason of a refusal."""
        if not context.step("ask_for_approval", self._ask_for_approval, run_id):
            return None
        answer = context.receive(APPROVAL, APPROVAL_TIMEOUT)
        if answer is None:
            return "nobody approved within 30 days"
        return None if answer["approved"] else f"refused by a person: {answer['comment']}"

    def _step(
        self,
        context: Context,
        run_id: str,
        name: str,
        function: Callable[..., Document],
        *arguments: Any,
        within: str = "",
    ) -> Any:
        """A durable step; one `within` another belongs to that one in the run's record."""
        shown = within or name
        recorded = self._part if within else self._whole
        return context.step(
            name, recorded, context, run_id, shown, function, *arguments, retries=RETRIES
        )

    def _whole(
        self,
        context: Context,
        run_id: str,
        name: str,
        function: Callable[..., Document],
        *arguments: Any,
    ) -> Document:
        """Carries out a step and writes down how it went."""
        result = self._part(context, run_id, name, function, *arguments)
        self._record(run_id, name, StepState.DONE, result.get("detail", ""), _known(name, result))
        return result

    def _part(
        self,
        context: Context,
        run_id: str,
        name: str,
        function: Callable[..., Document],
        *arguments: Any,
    ) -> Document:
        job = self._begin(context, run_id, name)
        try:
            return function(job, *arguments)
        except DomainError as error:
            self._record(run_id, name, StepState.FAILED, error.message, {})
            raise
        except Exception as error:
            logger.exception("step %s went wrong", name)
            kind = type(error).__name__
            self._record(run_id, name, StepState.FAILED, kind, {})
            raise Internal("STEP_FAILED", f"step {name} failed with {kind}") from error

    def _begin(self, context: Context, run_id: str, name: str) -> Job:
        with self.store.transaction() as records:
            run = _run(records, run_id)
            if run.state.ended:
                raise FailedPrecondition("RUN_ENDED", "the run was stopped")
            step = run.step(name)
            begun = replace(
                step,
                state=StepState.RUNNING,
                detail="",
                start_time=step.start_time or self.clock.now(),
                end_time=None,
                attempts=step.attempts + 1,
            )
            running = replace(run, state=RunState.RUNNING, steps=_with(run, begun))
            records.save_run(running)
            return Job(running, records.run_pipeline(run_id), context.check)

    def _record(
        self, run_id: str, name: str, state: StepState, detail: str, known: Document
    ) -> None:
        with self.store.transaction() as records:
            run = _run(records, run_id)
            done = replace(run.step(name), state=state, detail=detail, end_time=self.clock.now())
            records.save_run(replace(run, steps=_with(run, done), **known))

    def _ask_for_approval(self, run_id: str) -> bool:
        with self.store.transaction() as records:
            run = _run(records, run_id)
            asked = records.run_pipeline(run_id).gate.requires_approval
            if asked and not run.state.ended:
                records.save_run(replace(run, state=RunState.AWAITING_APPROVAL))
            return asked

    def _end(self, context: Context, run_id: str, state: RunState, reason: str) -> RunState:
        context.step("end", self._finish, run_id, state, reason)
        return state

    def _finish(self, run_id: str, state: RunState, reason: str) -> None:
        with self.store.transaction() as records:
            run = _run(records, run_id)
            if not run.state.ended:
                records.save_run(ended(run, state, reason, self.clock.now()))


RECORDED = (
    "snapshot",
    "training_set",
    "model_version",
    "rollout",
    "tracking_run_id",
    "metrics",
    "champion_metrics",
)
"""Results of steps that the run's record shows."""


def _known(name: str, result: Document) -> Document:
    known = {key: result[key] for key in RECORDED if key in result}
    if name == "compare":
        known["gate"] = {key: result[key] for key in ("passed", "checks", "reasons")}
    return known


def _with(run: PipelineRun, step: StepRecord) -> tuple[StepRecord, ...]:
    return tuple(step if each.step == step.step else each for each in run.steps)


def _run(records: Records, run_id: str) -> PipelineRun:
    run = records.run(run_id, to_change=True)
    if run is None:
        raise FailedPrecondition("RUN_GONE", "the run's record is gone")
    return run
