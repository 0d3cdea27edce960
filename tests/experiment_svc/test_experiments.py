"""Use cases of experiments, on records in memory."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from experiment_svc.domain import (
    Analysis,
    Decision,
    Evidence,
    Experiment,
    Kind,
    Moments,
    Series,
    State,
)
from experiment_svc.service import Experiments
from service_kit.clock import FixedClock
from service_kit.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound

NOW = datetime(2026, 3, 1, tzinfo=UTC)


class MemoryRecords:
    """The port `Records` in dictionaries."""

    def __init__(self) -> None:
        self.known: dict[str, Experiment] = {}
        self.seen = Evidence()
        self.looks: list[Analysis] = []

    def experiment(self, experiment_id: str, *, lock: bool = False) -> Experiment | None:
        return self.known.get(experiment_id)

    def experiments(self, below: int | None, limit: int) -> list[tuple[int, Experiment]]:
        return list(enumerate(self.known.values()))[:limit]

    def add_experiment(self, experiment: Experiment) -> None:
        self.known[experiment.id] = experiment

    def save_experiment(self, experiment: Experiment) -> None:
        self.known[experiment.id] = experiment

    def evidence(self, experiment_id: str) -> Evidence:
        return self.seen

    def newest_analysis(self, experiment_id: str) -> Analysis | None:
        return self.looks[-1] if self.looks else None

    def add_analysis(self, experiment_id: str, analysis: Analysis) -> None:
        self.looks.append(analysis)

    def analyses(
        self, experiment_id: str, below: int | None, limit: int
    ) -> list[tuple[int, Analysis]]:
        return list(enumerate(self.looks))[:limit]


@pytest.fixture
def records() -> MemoryRecords:
    return MemoryRecords()


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock(NOW)


@pytest.fixture
def experiments(clock: FixedClock) -> Experiments:
    return Experiments(clock)


def test_creating_gives_time_state_and_an_id(records, experiments, make_experiment) -> None:
    made = experiments.create(records, make_experiment(id="", state=State.CONCLUDED))
    assert len(made.id) == 36
    assert (made.created, made.state) == (NOW, State.RUNNING)
    assert experiments.get(records, made.id) == made


def test_an_id_is_taken_once_and_must_be_one(records, experiments, make_experiment) -> None:
    experiments.create(records, make_experiment())
    with pytest.raises(AlreadyExists):
        experiments.create(records, make_experiment())
    with pytest.raises(InvalidArgument):
        experiments.create(records, make_experiment(id="No Good"))


def test_a_bad_plan_is_not_kept(records, experiments, make_experiment) -> None:
    with pytest.raises(InvalidArgument):
        experiments.create(records, make_experiment(arms=()))
    assert not records.known


def test_what_is_not_there_is_not_found(records, experiments) -> None:
    for use in (experiments.get, experiments.analyze):
        with pytest.raises(NotFound):
            use(records, "nothing")
    with pytest.raises(NotFound):
        experiments.conclude(records, "nothing", "")


def test_concluding_is_final(records, experiments, make_experiment) -> None:
    experiments.create(records, make_experiment())
    ended = experiments.conclude(records, "exp-1", "shipped")
    assert (ended.state, ended.concluded) == (State.CONCLUDED, NOW)
    with pytest.raises(FailedPrecondition):
        experiments.conclude(records, "exp-1", "again")


def test_a_look_is_kept_when_it_saw_something_new(
    records, experiments, clock, make_experiment
) -> None:
    experiments.create(records, make_experiment())
    first = experiments.analyze(records, "exp-1")
    clock.advance(timedelta(minutes=1))
    assert experiments.analyze(records, "exp-1") is first
    records.seen = Evidence(
        {
            Series("brier", 0): Moments(500, 0.2, 20.0),
            Series("brier", 1): Moments(500, 0.1, 20.0),
            Series("brier", 1, Kind.DIFFERENCE.value): Moments(500, -0.1, 5.0),
        }
    )
    second = experiments.analyze(records, "exp-1")
    assert second.verdict.decision is Decision.SHIP
    assert [look.verdict.decision for look in records.looks] == [Decision.CONTINUE, Decision.SHIP]
