"""Runs on the real durable engine, on SQLite and on PostgreSQL."""

from __future__ import annotations

import re
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from service_kit.database import make_engine, migrate
from service_kit.durable import DurableEngine
from service_kit.errors import FailedPrecondition, NotFound
from tests.training_svc import run_process
from tests.training_svc.examples import WHEN, pipeline
from tests.training_svc.world import World
from training_svc.domain.pipelines import (
    DataCheck,
    GateSpec,
    Pipeline,
    PipelineRun,
    RunState,
    Trigger,
    TriggerKind,
)
from training_svc.service import RunRequest, Training
from training_svc.storage import SqlStore

FULL = ["DONE"] * 8
REQUEST = RunRequest(WHEN, None, Trigger(TriggerKind.DRIFT, "PSI 0.3"), {})


@pytest.fixture(autouse=True)
def quick_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service_kit.durable.engine.MESSAGE_POLL_S", 0.05)
    monkeypatch.setattr("service_kit.durable.engine.QUEUE_POLL_S", 0.1)
    monkeypatch.setattr("training_svc.service.pipelines.POLL", 0.02)


class Suite:
    """The use cases of training over an engine that can be stopped and started again."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url, self.app_name = url, f"training-{secrets.token_hex(4)}"
        self.world = World(folder)
        self.durable: DurableEngine
        self.training: Training
        self.store: SqlStore
        with closing_engine(url) as engine:
            migrate(engine, "training_svc")

    def up(self) -> None:
        self.durable, self.training, self.store = run_process.build(
            self.url, self.app_name, self.world
        )
        self.durable.launch()

    def create(self, given: Pipeline) -> None:
        with self.store.transaction() as records:
            self.training.create_pipeline(records, given)

    def record(self, request: RunRequest = REQUEST) -> PipelineRun:
        with self.store.transaction() as records:
            return self.training.create_run(records, "late", request)

    def run(self, given: Pipeline | None = None, request: RunRequest = REQUEST) -> PipelineRun:
        self.create(given or pipeline())
        run = self.record(request)
        self.training.start(run)
        return self.wait(run)

    def wait(self, run: PipelineRun, timeout: float = 30.0) -> PipelineRun:
        return self.training.wait("late", run.id, timeout)

    def cancel(self, run: PipelineRun) -> PipelineRun:
        with self.store.transaction() as records:
            stopped = self.training.cancel(records, "late", run.id)
        self.training.stop(stopped)
        return stopped

    def approve(self, run: PipelineRun, approved: bool, comment: str = "") -> None:
        with self.store.transaction() as records:
            self.training.approve(records, "late", run.id, approved, comment)

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < deadline, self.world.journal
            time.sleep(0.02)


def closing_engine(url: str) -> Any:
    engine = make_engine(url)
    engine.close = engine.dispose  # type: ignore[attr-defined]
    return closing(engine)


@pytest.fixture
def suite(sql_url: str, tmp_path: Path, no_plots: None) -> Iterator[Suite]:
    made = Suite(sql_url, tmp_path / "world")
    made.up()
    yield made
    made.durable.shutdown()


def test_a_run_ends_with_a_version_in_traffic(suite: Suite) -> None:
    done = suite.run()
    assert done.state is RunState.SUCCEEDED, done.reason
    assert [each.state for each in done.steps] == FULL
    assert done.model_version == "models/late-arrival/versions/1"
    assert done.tracking_run_id == f"tracked-{done.id}"
    assert done.metrics["pr_auc"] > 0.6
    assert done.gate["passed"] is True
    assert done.window_start == WHEN - timedelta(days=90)
    assert done.end_time is not None
    assert all(each.start_time and each.end_time for each in done.steps)
    assert suite.world.journal[-1] == "deploy models/late-arrival/versions/1"


def test_a_second_run_is_held_against_the_champion(suite: Suite) -> None:
    request = replace(REQUEST, window_end=WHEN - timedelta(days=10))
    weak = replace(request, trainer_config={"shuffle_inputs": True})
    first = suite.run(pipeline(evaluation=replace(pipeline().evaluation, refit=False)), weak)
    assert first.state is RunState.SUCCEEDED
    better = suite.record(request)
    suite.training.start(better)
    done = suite.wait(better)
    assert done.state is RunState.SUCCEEDED, done.reason
    assert done.rollout == "endpoints/late-arrival/rollouts/1"
    assert done.champion_metrics["pr_auc"] < done.metrics["pr_auc"]
    refused = suite.record(replace(weak, window_end=WHEN))
    suite.training.start(refused)
    done = suite.wait(refused)
    assert done.state is RunState.REFUSED
    assert "not above" in done.reason
    assert done.step("roll_out").state == "SKIPPED"
    assert len(suite.world.versions) == 3


def test_a_failed_step_fails_the_run_and_says_why(suite: Suite) -> None:
    done = suite.run(pipeline(checks=(DataCheck("row_count", "", {"min": 9999}),)))
    assert done.state is RunState.FAILED
    assert done.reason == "DATA_REJECTED: 3000 rows, at least 9999 are needed"
    assert [each.state for each in done.steps] == ["FAILED"] + ["SKIPPED"] * 7
    assert done.steps[0].attempts == 1


def test_a_mistake_in_a_step_fails_the_run_without_its_text(
    suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(*_: object) -> None:
        raise KeyError("secret")

    monkeypatch.setattr("tests.training_svc.world.FakeJobs.fit", wrong)
    done = suite.run()
    assert done.reason == "STEP_FAILED: step train failed with KeyError"
    assert done.step("train").detail == "KeyError"


def test_a_peer_that_comes_back_costs_a_retry(suite: Suite) -> None:
    suite.create(pipeline())
    suite.world.away.add("features")
    run = suite.record()
    suite.training.start(run)
    suite.until(lambda: suite.wait(run, 0).step("validate").state == "FAILED")
    suite.world.away.clear()
    done = suite.wait(run)
    assert done.state is RunState.SUCCEEDED, done.reason
    assert done.step("validate").attempts == 2


def test_a_running_run_is_cancelled_at_once(suite: Suite) -> None:
    suite.world.stall.touch()
    suite.create(pipeline())
    run = suite.record()
    suite.training.start(run)
    suite.until(lambda: bool(suite.world.journal))
    suite.cancel(run)
    done = suite.wait(run)
    assert done.state is RunState.CANCELLED
    assert done.step("train").state == "FAILED"
    suite.until(lambda: not suite.durable._running)
    suite.world.stall.unlink()
    suite.training.start(suite.wait(run))
    suite.training.recover()
    time.sleep(0.3)
    assert suite.wait(run) == done
    assert len(suite.world.journal) == 1


def test_a_run_that_was_not_started_is_cancelled(suite: Suite) -> None:
    suite.create(pipeline())
    run = suite.record()
    suite.cancel(run)
    # A start that was under way meanwhile ends at its first step.
    suite.training.start(run)
    suite.until(lambda: suite.durable.status(run.id) != "RUNNING")
    assert suite.wait(run).state is RunState.CANCELLED
    assert suite.world.journal == []
    assert suite.cancel(run).end_time == suite.wait(run).end_time


def test_what_was_recorded_but_not_started_is_started_later(suite: Suite) -> None:
    suite.create(pipeline())
    run = suite.record()
    suite.training.recover()
    assert suite.wait(run).state is RunState.SUCCEEDED


def test_a_run_whose_workflow_died_is_given_up(suite: Suite) -> None:
    suite.world.stall.touch()
    suite.create(pipeline())
    run = suite.record()
    suite.training.start(run)
    suite.until(lambda: bool(suite.world.journal))
    suite.durable.cancel(run.id)
    suite.training.recover()
    assert suite.wait(run).state is RunState.FAILED


@pytest.mark.parametrize("approved", [True, False])
def test_a_run_waits_for_a_person(suite: Suite, approved: bool) -> None:
    waiting = suite.run(pipeline(gate=GateSpec(requires_approval=True)))
    assert waiting.state is RunState.AWAITING_APPROVAL
    assert waiting.model_version
    suite.durable.shutdown()
    suite.up()
    suite.approve(waiting, approved, "too risky")
    with pytest.raises(FailedPrecondition):
        suite.approve(waiting, not approved)
    suite.until(lambda: suite.wait(waiting, 0).state.ended)
    done = suite.wait(waiting)
    if approved:
        assert done.state is RunState.SUCCEEDED
    else:
        assert (done.state, done.reason) == (RunState.REFUSED, "refused by a person: too risky")
    assert any(each.startswith("deploy") for each in suite.world.journal) is approved


def test_a_run_keeps_the_pipeline_that_it_began_with(suite: Suite) -> None:
    suite.world.stall.touch()
    suite.create(pipeline())
    run = suite.record()
    suite.training.start(run)
    suite.until(lambda: bool(suite.world.journal))
    with suite.store.transaction() as records:
        changed = pipeline(model="models/other", release=None)
        suite.training.update_pipeline(records, changed, ["model", "release"])
        suite.training.delete_pipeline(records, "late")
    suite.world.stall.unlink()
    done = suite.wait(run)
    assert done.state is RunState.SUCCEEDED
    assert done.model_version == "models/late-arrival/versions/1"
    with pytest.raises(NotFound), suite.store.transaction() as records:
        suite.training.create_run(records, "late", REQUEST)


def test_a_killed_process_goes_on_where_it_was(sql_url: str, tmp_path: Path) -> None:
    suite = Suite(sql_url, tmp_path / "world")
    suite.up()
    suite.create(pipeline())
    run = suite.record()
    suite.durable.shutdown()
    suite.world.stall.touch()
    command = [sys.executable, "-m", run_process.__name__, sql_url, suite.app_name]
    process = subprocess.Popen([*command, str(suite.world.folder), run.id])
    try:
        suite.until(lambda: bool(suite.world.journal))
    finally:
        process.kill()
        process.wait()
    suite.world.stall.unlink()
    suite.up()
    try:
        done = suite.wait(run)
    finally:
        suite.durable.shutdown()
    assert done.state is RunState.SUCCEEDED, done.reason
    assert [each.attempts for each in done.steps] == [1, 1, 1, 2, 1, 1, 2, 2]
    assert len(suite.world.versions) == 1
    effects = [re.sub(r"\d+$", "", line).strip() for line in suite.world.journal]
    assert effects == [
        "fit",
        "fit",
        "track late 3 plots",
        "fit",
        "model models/late-arrival",
        "register",
        "deploy models/late-arrival/versions/",
    ]
