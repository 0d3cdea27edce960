"""A run as a durable workflow: it goes on where it was after any restart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

from service_kit.clock import Clock
from service_kit.errors import DomainError
from training_svc.domain.pipelines import PipelineRun, RunState, StepRecord, StepState
from training_svc.ports import Document, Store
from training_svc.service import APPROVAL
from training_svc.steps import Job, Steps

APPROVAL_TIMEOUT = 30 * 24 * 3600.0
COLLECTION_RETRIES = 3


class Context(Protocol):
    """What a workflow may do."""

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
            outcome = self._carry_out(context, run_id)
        except DomainError as error:
            context.step("fail", self._fail, run_id, f"{error.reason}: {error.message}")
            return {"state": RunState.FAILED}
        return outcome

    def _carry_out(self, context: Context, run_id: str) -> Document:
        steps = self.steps
        self._step(context, run_id, "validate", steps.validate, retries=COLLECTION_RETRIES)
        frozen = self._step(context, run_id, "snapshot", steps.snapshot)
        joined = {
            **frozen,
            **self._step(context, run_id, "features", steps.join, frozen["snapshot"]),
        }
        training_set = joined["training_set"]
        trained = self._step(context, run_id, "train", steps.train, training_set)
        evaluated = self._step(context, run_id, "evaluate", steps.evaluate, training_set, trained)
        verdict = self._step(context, run_id, "compare", steps.compare, evaluated)
        registered = self._step(
            context, run_id, "register", steps.register, joined, trained, evaluated, verdict
        )
        if not verdict["passed"]:
            return self._end(context, run_id, RunState.REFUSED, "; ".join(verdict["reasons"]))
        refusal = self._approval(context, run_id)
        if refusal is not None:
            return self._end(context, run_id, RunState.REFUSED, refusal)
        version = registered["model_version"]
        self._step(context, run_id, "roll_out", steps.roll_out, version)
        return self._end(context, run_id, RunState.SUCCEEDED, "; ".join(verdict["reasons"]))

    def _approval(self, context: Context, run_id: str) -> str | None:
        """Waits for a person where one is asked for; gives the reason of a refusal."""
        if not context.step("ask_for_approval", self._ask_for_approval, run_id):
            return None
        answer = context.receive(APPROVAL, APPROVAL_TIMEOUT)
        if answer is None:
            return "nobody approved within 30 days"
        if not answer["approved"]:
            return f"refused by a person: {answer['comment']}"
        context.step("approved", self._change, run_id, RunState.RUNNING)
        return None

    def _step(
        self,
        context: Context,
        run_id: str,
        name: str,
        function: Callable[..., Document],
        *arguments: Any,
        retries: int = 2,
    ) -> Any:
        return context.step(
            name, self._recorded, run_id, name, function, *arguments, retries=retries
        )

    def _recorded(
        self, run_id: str, name: str, function: Callable[..., Document], *arguments: Any
    ) -> Document:
        """Carries out a step and writes down how it went."""
        job = self._begin(run_id, name)
        try:
            result = function(job, *arguments)
        except Exception as error:
            detail = error.message if isinstance(error, DomainError) else type(error).__name__
            self._record_step(run_id, name, StepState.FAILED, detail, {})
            raise
        self._record_step(run_id, name, StepState.DONE, result.get("detail", ""), result)
        return result

    def _begin(self, run_id: str, name: str) -> Job:
        with self.store.transaction() as records:
            run = _found(records.run(run_id))
            pipeline = _found(records.pipeline(run.pipeline))
            step = run.step(name)
            begun = replace(
                step,
                state=StepState.RUNNING,
                start_time=step.start_time or self.clock.now(),
                attempts=step.attempts + 1,
            )
            running = replace(run, state=RunState.RUNNING, steps=_with(run, begun))
            records.save_run(running)
        return Job(running, pipeline)

    def _record_step(
        self, run_id: str, name: str, state: StepState, detail: str, result: Document
    ) -> None:
        with self.store.transaction() as records:
            run = _found(records.run(run_id))
            ended = replace(run.step(name), state=state, detail=detail, end_time=self.clock.now())
            known = {key: result[key] for key in RECORDED if key in result}
            if name == "compare" and result:
                known["gate"] = {key: result[key] for key in ("passed", "checks", "reasons")}
            records.save_run(replace(run, steps=_with(run, ended), **known))

    def _ask_for_approval(self, run_id: str) -> bool:
        with self.store.transaction() as records:
            run = _found(records.run(run_id))
            pipeline = _found(records.pipeline(run.pipeline))
            if pipeline.gate.requires_approval:
                records.save_run(replace(run, state=RunState.AWAITING_APPROVAL))
            return bool(pipeline.gate.requires_approval)

    def _change(self, run_id: str, state: RunState) -> None:
        with self.store.transaction() as records:
            records.save_run(replace(_found(records.run(run_id)), state=state))

    def _end(self, context: Context, run_id: str, state: RunState, reason: str) -> Document:
        context.step("end", self._finish, run_id, state, reason)
        return {"state": state}

    def _fail(self, run_id: str, reason: str) -> None:
        self._finish(run_id, RunState.FAILED, reason)

    def _finish(self, run_id: str, state: RunState, reason: str) -> None:
        with self.store.transaction() as records:
            run = _found(records.run(run_id))
            if run.state.ended:
                return
            rest = tuple(
                replace(each, state=StepState.SKIPPED) if each.state is StepState.PENDING else each
                for each in run.steps
            )
            records.save_run(
                replace(run, state=state, steps=rest, reason=reason, end_time=self.clock.now())
            )


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


def _with(run: PipelineRun, step: StepRecord) -> tuple[StepRecord, ...]:
    return tuple(step if each.step == step.step else each for each in run.steps)


def _found(value: Any) -> Any:
    if value is None:
        raise RuntimeError("a run's record is gone")
    return value
