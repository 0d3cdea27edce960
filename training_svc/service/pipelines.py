"""Use cases of pipelines and runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from service_kit.clock import Clock
from service_kit.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from service_kit.ids import uuid7_str
from service_kit.names import check_id
from training_svc.domain.pipelines import (
    DataCheck,
    Pipeline,
    PipelineRun,
    RunState,
    TrainerSpec,
    Trigger,
    ended,
)
from training_svc.domain.rules import check_pipeline, check_window
from training_svc.ports import Engine, Records, Store
from training_svc.service.recovery import WORKFLOW_LOST, recover

WORKFLOW = "pipeline_run"
QUEUE = "pipeline_runs"
APPROVAL = "approval"
UPDATABLE = frozenset(
    {
        "description",
        "model",
        "data",
        "checks",
        "trainer",
        "evaluation",
        "gate",
        "release",
        "schedule",
        "seed",
    }
)
POLL = 0.2
PAGE = 1000

CheckPlugins = Callable[[TrainerSpec, Iterable[DataCheck]], None]
CheckSchedule = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class RunRequest:
    """What a run is asked to be."""

    window_end: datetime | None
    window_start: datetime | None
    trigger: Trigger
    trainer_config: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Training:
    """Use cases. The caller opens the transaction; a run is started after its commit."""

    clock: Clock
    store: Store
    engine: Engine
    check_plugins: CheckPlugins
    check_schedule: CheckSchedule

    def create_pipeline(self, records: Records, wanted: Pipeline) -> Pipeline:
        """Creates a pipeline.

        Raises:
            AlreadyExists: A pipeline of that id exists.
        """
        check_id(wanted.id, "pipeline_id")
        self._check(wanted)
        if records.pipeline(wanted.id) is not None:
            raise AlreadyExists(
                "PIPELINE_EXISTS", "a pipeline of that id exists", field="pipeline_id"
            )
        now = self.clock.now()
        pipeline = replace(wanted, create_time=now, update_time=now)
        records.save_pipeline(pipeline)
        return pipeline

    def get_pipeline(self, records: Records, pipeline_id: str, field: str = "name") -> Pipeline:
        """Gets a pipeline."""
        pipeline = records.pipeline(pipeline_id)
        if pipeline is None:
            raise NotFound("PIPELINE_NOT_FOUND", "no such pipeline", field=field)
        return pipeline

    def update_pipeline(self, records: Records, wanted: Pipeline, paths: Iterable[str]) -> Pipeline:
        """Changes the named fields; all that can be changed when none is named."""
        pipeline = self.get_pipeline(records, wanted.id, "pipeline.name")
        chosen = set(paths) or set(UPDATABLE)
        if unknown := chosen - UPDATABLE:
            raise InvalidArgument(
                "FIELD_NOT_UPDATABLE", "can't be changed", field=f"update_mask.{min(unknown)}"
            )
        changes = {path: getattr(wanted, path) for path in chosen}
        changed = replace(pipeline, update_time=self.clock.now(), **changes)
        self._check(changed)
        records.save_pipeline(changed)
        return changed

    def delete_pipeline(self, records: Records, pipeline_id: str) -> None:
        """Deletes a pipeline; its runs are kept."""
        self.get_pipeline(records, pipeline_id)
        records.delete_pipeline(pipeline_id)

    def create_run(self, records: Records, pipeline_id: str, wanted: RunRequest) -> PipelineRun:
        """Records a run; `start` sets it going."""
        pipeline = self.get_pipeline(records, pipeline_id, "pipeline")
        now = self.clock.now()
        end = wanted.window_end or now
        start = wanted.window_start
        if start is None and pipeline.data.lookback is not None:
            start = end - pipeline.data.lookback
        check_window(start, end)
        self._check_overrides(pipeline, wanted.trainer_config)
        run = PipelineRun(
            id=uuid7_str(),
            pipeline=pipeline.id,
            trigger=wanted.trigger,
            window_end=end,
            window_start=start,
            create_time=now,
            trainer_config=wanted.trainer_config,
        )
        records.add_run(run, pipeline)
        return run

    def start(self, run: PipelineRun) -> None:
        """Sets a recorded run going; doing it again changes nothing."""
        if not run.state.ended:
            self.engine.start(WORKFLOW, run.id, {"run": run.id}, queue=QUEUE)

    def stop(self, run: PipelineRun) -> None:
        """Ends the workflow of a cancelled run; doing it again changes nothing."""
        if run.state is RunState.CANCELLED:
            with suppress(NotFound):  # it was never started, and a start would end at once
                self.engine.cancel(run.id)

    def scheduled_pipelines(self) -> list[Pipeline]:
        """Every pipeline with a schedule."""
        found: list[Pipeline] = []
        with self.store.reading() as records:
            while page := records.pipelines(found[-1].id if found else "", PAGE):
                found += page
        return [each for each in found if each.schedule]

    def recover(self) -> None:
        """Brings records and workflows together again that a crash has parted."""
        with self.store.reading() as records:
            unfinished = records.unfinished_runs()
        recover(self.engine, unfinished, self.start, self._give_up)

    def _give_up(self, lost: PipelineRun) -> None:
        with self.store.transaction() as records:
            run = records.run(lost.id, to_change=True)
            if run is not None and not run.state.ended:
                records.save_run(ended(run, RunState.FAILED, WORKFLOW_LOST, self.clock.now()))

    def get_run(self, records: Records, pipeline_id: str, run_id: str) -> PipelineRun:
        """Gets a run."""
        run = records.run(run_id)
        if run is None or run.pipeline != pipeline_id:
            raise NotFound("RUN_NOT_FOUND", "no such run", field="name")
        return run

    def wait(self, pipeline_id: str, run_id: str, timeout: float) -> PipelineRun:
        """Waits until a run has ended or awaits a person, or the time is up."""
        deadline = time.monotonic() + timeout
        while True:
            with self.store.reading() as records:
                run = self.get_run(records, pipeline_id, run_id)
            done = run.state.ended or run.state is RunState.AWAITING_APPROVAL
            if done or time.monotonic() > deadline:
                return run
            time.sleep(POLL)

    def cancel(self, records: Records, pipeline_id: str, run_id: str) -> PipelineRun:
        """Stops a run (`stop` ends its workflow); nothing happens to one that has ended."""
        run = self._run_to_change(records, pipeline_id, run_id)
        if run.state.ended:
            return run
        stopped = ended(run, RunState.CANCELLED, "stopped by a person", self.clock.now())
        records.save_run(stopped)
        return stopped

    def approve(
        self, records: Records, pipeline_id: str, run_id: str, approved: bool, comment: str
    ) -> PipelineRun:
        """Answers a run that waits for a person.

        Raises:
            FailedPrecondition: It does not wait.
        """
        run = self._run_to_change(records, pipeline_id, run_id)
        if run.state is not RunState.AWAITING_APPROVAL:
            raise FailedPrecondition(
                "NOT_AWAITING_APPROVAL", "this run waits for no approval", field="name"
            )
        answered = replace(run, state=RunState.RUNNING)
        records.save_run(answered)
        # Before the commit: a run whose answer is recorded has got it.
        answer = {"approved": approved, "comment": comment}
        self.engine.send(run.id, APPROVAL, answer, key=f"{run.id}:{APPROVAL}")
        return answered

    def _run_to_change(self, records: Records, pipeline_id: str, run_id: str) -> PipelineRun:
        run = records.run(run_id, to_change=True)
        if run is None or run.pipeline != pipeline_id:
            raise NotFound("RUN_NOT_FOUND", "no such run", field="name")
        return run

    def _check_overrides(self, pipeline: Pipeline, config: Mapping[str, Any]) -> None:
        spec = replace(pipeline.trainer, config={**pipeline.trainer.config, **config})
        try:
            self.check_plugins(spec, ())
        except InvalidArgument as error:
            field = (error.field or "").replace("pipeline.trainer.config", "trainer_config")
            raise InvalidArgument(error.reason, error.message, field=field) from error

    def _check(self, pipeline: Pipeline) -> None:
        check_pipeline(pipeline)
        self.check_plugins(pipeline.trainer, pipeline.checks)
        self.check_schedule(pipeline.schedule)
