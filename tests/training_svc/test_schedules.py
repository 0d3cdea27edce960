"""Cron schedules."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from service_kit.clock import FixedClock
from service_kit.errors import InvalidArgument, NotFound, Unavailable
from tests.training_svc.examples import WHEN, pipeline
from training_svc.domain.pipelines import Pipeline
from training_svc.schedules import Scheduler, check_schedule, due

NOON = datetime(2013, 4, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize("expression", ["", "0 3 * * *", "*/5 * * * 1-5"])
def test_five_fields_are_a_schedule(expression: str) -> None:
    check_schedule(expression)


@pytest.mark.parametrize("expression", ["@hourly", "0 3 * *", "0 3 * * * *", "61 * * * *", "x"])
def test_anything_else_is_none(expression: str) -> None:
    with pytest.raises(InvalidArgument) as error:
        check_schedule(expression)
    assert error.value.field == "pipeline.schedule"


@pytest.mark.parametrize(
    ("minutes", "found"),
    [(-1, None), (0, NOON), (1, NOON), (59, NOON), (61, NOON.replace(hour=13))],
)
def test_the_last_moment_is_due(minutes: int, found: datetime | None) -> None:
    now = NOON + timedelta(minutes=minutes)
    assert due("0 * * * *", NOON - timedelta(minutes=30), now) == found


def test_a_moment_is_not_due_twice() -> None:
    assert due("0 * * * *", NOON, NOON + timedelta(minutes=5)) is None


class Starts:
    """What a scheduler started, and what keeps it from it."""

    def __init__(self) -> None:
        self.clock = FixedClock(WHEN)
        self.pipelines = [pipeline(id=name, schedule="0 * * * *") for name in ("a", "b")]
        self.started: list[tuple[str, datetime]] = []
        self.error: Exception | None = None
        self.scheduler = Scheduler(self.clock, lambda: self.pipelines, self.start)

    def start(self, given: Pipeline, moment: datetime) -> None:
        if self.error is not None and given.id == "a":
            raise self.error
        self.started.append((given.id, moment))

    def look(self, minutes: float) -> list[tuple[str, datetime]]:
        self.started.clear()
        self.clock.advance(timedelta(minutes=minutes))
        self.scheduler.look()
        return list(self.started)


def test_every_pipeline_is_started_once_at_its_moment() -> None:
    starts = Starts()
    assert starts.look(29) == []
    one = WHEN.replace(hour=13, minute=0)
    assert starts.look(1) == [("a", one), ("b", one)]
    assert starts.look(1) == []


def test_a_moment_before_the_last_change_does_not_count() -> None:
    starts = Starts()
    starts.clock.advance(timedelta(minutes=45))
    starts.pipelines = [pipeline(schedule="0 * * * *", update_time=starts.clock.now())]
    assert starts.look(1) == []


def test_a_moment_that_was_missed_for_long_is_left_out() -> None:
    starts = Starts()
    starts.pipelines = [pipeline(schedule="45 12 * * *")]
    assert starts.look(120) == []
    assert Starts().look(60) != []


def test_one_that_can_not_start_does_not_keep_the_others() -> None:
    starts = Starts()
    starts.error = Unavailable("DATABASE_UNAVAILABLE", "away")
    assert [name for name, _ in starts.look(30)] == ["b"]
    starts.error = None
    assert [name for name, _ in starts.look(1)] == ["a"]
    starts.error = NotFound("PIPELINE_NOT_FOUND", "gone")
    assert [name for name, _ in starts.look(60)] == ["b"]
    starts.error = None
    assert starts.look(1) == []
