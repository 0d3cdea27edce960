"""DBOS looks for work as often as there may be some."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import event

from service_kit.durable import DurableEngine, WorkflowContext, WorkflowState, pace
from service_kit.durable.outcomes import Json
from service_kit.durable.pace import Pace, Unhurried


@pytest.fixture
def calm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "LASTING_S", 0.0)
    monkeypatch.setattr(pace, "CALM_S", 30.0)


def timed(ending: Unhurried, seconds: float) -> tuple[bool, float]:
    began = time.monotonic()
    return ending.wait(seconds), time.monotonic() - began


def test_while_something_goes_on_it_waits_as_long_as_asked() -> None:
    ended, took = timed(Unhurried(Pace(lambda: True)), 0.1)
    assert not ended
    assert 0.09 < took < 5


def test_for_a_while_after_it_as_well() -> None:
    ended, took = timed(Unhurried(Pace(lambda: False)), 0.1)
    assert not ended
    assert 0.09 < took < 5


@pytest.mark.usefixtures("calm")
def test_otherwise_it_waits_for_something_to_happen() -> None:
    rhythm = Pace(lambda: False)
    threading.Timer(0.5, rhythm.stir).start()
    was_set, seconds = timed(Unhurried(rhythm), 0.1)
    assert not was_set
    assert 0.45 < seconds < 10


@pytest.mark.usefixtures("calm")
def test_the_end_is_noticed_at_once() -> None:
    ending = Unhurried(Pace(lambda: False))
    threading.Timer(0.2, ending.set).start()
    was_set, seconds = timed(ending, 1.0)
    assert was_set
    assert seconds < 10
    assert ending.wait(5)
    assert ending.wait()


@pytest.mark.usefixtures("calm")
def test_no_time_is_no_time() -> None:
    assert timed(Unhurried(Pace(lambda: False)), 0.0)[1] < 1


@pytest.fixture
def engine(tmp_path: Path, calm: None) -> Iterator[DurableEngine]:
    made = DurableEngine(f"sqlite:///{tmp_path / 'durable.db'}", "paced", "1")
    made.queue("line", concurrency=1)
    yield made
    made.shutdown()


def test_an_engine_without_work_leaves_its_database_alone(engine: DurableEngine) -> None:
    asked: list[str] = []
    engine.launch()
    time.sleep(2.5)  # the first looks
    database = engine._dbos._sys_db.engine
    event.listen(database, "before_cursor_execute", lambda *given: asked.append(given[2]))
    time.sleep(2.5)
    # The table of schedules, which is looked at every hour, a few times after the start too.
    assert [each for each in asked if "workflow_schedules" not in each] == []
    asked.clear()
    engine.ping()
    assert asked


def test_what_is_queued_begins_at_once_and_so_does_the_next(
    engine: DurableEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The end of a workflow is on record a moment after its function has returned.
    monkeypatch.setattr(pace, "LASTING_S", 3.0)

    @engine.workflow("w")
    def workflow(_: WorkflowContext, values: Json) -> Json:
        return values

    engine.launch()
    time.sleep(4.0)  # nothing has happened for a while
    for name in ("w1", "w2", "w3"):
        engine.start("w", name, {}, queue="line")
    for name in ("w1", "w2", "w3"):
        assert engine.wait(name, 15) is WorkflowState.SUCCEEDED
