"""Exposures and outcomes in, sums out: against SQLite and PostgreSQL."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from sqlalchemy import Engine, func, select

from experiment_svc.domain import (
    DAY_US,
    Arm,
    Design,
    Evidence,
    Experiment,
    Guardrail,
    MetricSpec,
    conclude,
    exposed,
    gather,
    observed,
)
from experiment_svc.service import ExposureBatch, Ingestion, OutcomeBatch, Retention
from experiment_svc.storage import Base, SqlJournal, SqlRecords
from service_kit.clock import FixedClock
from service_kit.database import migrate, transaction
from service_kit.migrations import schema_differences

NOW = datetime(2026, 3, 1, tzinfo=UTC)
START = int(NOW.timestamp() - 86_400 * 10) * 1_000_000


@pytest.fixture
def engine(sql_engine: Engine) -> Engine:
    migrate(sql_engine, "experiment_svc")
    return sql_engine


class Bench:
    """One experiment, and the use cases on its database."""

    def __init__(self, engine: Engine, experiment: Experiment) -> None:
        self.engine = engine
        self.experiment = experiment
        self.clock = FixedClock(NOW)
        self.ingestion = Ingestion(self.clock)
        with transaction(engine) as session:
            SqlRecords(session).add_experiment(experiment)

    def expose(self, ids: Sequence[str], rows, **fields: object) -> Counter[str]:
        batch = ExposureBatch(self.experiment.id, ("champion", "challenger"), ids, ids, rows)
        with transaction(self.engine) as session:
            return self.ingestion.expose(SqlJournal(session), [replace(batch, **fields)])

    def observe(self, ids: Sequence[str], values, times=None) -> Counter[str]:
        times = np.full(len(ids), START, dtype=np.int64) if times is None else times
        batch = OutcomeBatch(ids, np.asarray(values, dtype=float), times)
        with transaction(self.engine) as session:
            return self.ingestion.observe(SqlJournal(session), [batch])

    def evidence(self) -> Evidence:
        with transaction(self.engine) as session:
            return SqlRecords(session).evidence(self.experiment.id)

    def count(self, table: str) -> int:
        with transaction(self.engine) as session:
            counted = select(func.count()).select_from(Base.metadata.tables[table])
            return int(session.scalar(counted) or 0)

    def sweep(self, hold_for: timedelta = timedelta(hours=1), most: int = 1_000) -> int:
        with transaction(self.engine) as session:
            return Retention(self.clock, hold_for, most).sweep(SqlJournal(session))

    def conclude(self) -> None:
        with transaction(self.engine) as session:
            records = SqlRecords(session)
            records.save_experiment(conclude(self.experiment, "done", NOW))


@pytest.fixture
def bench(engine: Engine, make_experiment) -> Bench:
    return Bench(engine, make_experiment(guardrails=(Guardrail(MetricSpec("latency"), 5_000),)))


@pytest.fixture
def rows(make_rows) -> Callable[..., object]:
    """Rows from `START` on, an hour apart."""

    def make(n: int, **columns: object):
        times = START + np.arange(n, dtype=np.int64) * 3_600_000_000
        return make_rows(n, **{"event_times_us": times, **columns})

    return make


def ids(n: int, prefix: str = "p") -> list[str]:
    return [f"{prefix}-{index}" for index in range(n)]


def same(one: Evidence, other: Evidence) -> None:
    assert one.tallies == other.tallies
    assert one.newest_us == other.newest_us
    assert set(one.moments) == set(other.moments)
    for series, moments in one.moments.items():
        found = other.moments[series]
        assert found.n == moments.n
        assert found.mean == pytest.approx(moments.mean, rel=1e-12, abs=1e-12)
        assert found.m2 == pytest.approx(moments.m2, rel=1e-9, abs=1e-9)


def test_the_tables_are_those_of_the_migrations(engine: Engine) -> None:
    assert schema_differences(engine, Base.metadata) == []


def test_however_they_come_the_sums_are_those_of_all_rows(bench: Bench, rows) -> None:
    """Exposure first, outcome first, in one batch or in several: the same evidence."""
    rng = np.random.default_rng(1)
    whole = rows(90, assigned=rng.integers(0, 2, 90))
    outcomes = rng.integers(0, 2, 90).astype(float)
    names = ids(90)
    index = np.arange(90)
    bench.expose(names[:40], whole.take(index[:40]))
    assert bench.observe(names[20:60], outcomes[20:60]) == Counter(counted=20, held=20)
    assert bench.expose(names[40:], whole.take(index[40:])) == Counter(counted=50)
    bench.observe(names[:20], outcomes[:20])
    assert bench.observe(names[60:], outcomes[60:]) == Counter(counted=30)
    known = observed(bench.experiment, whole.assigned, whole.scores, whole.event_times_us, outcomes)
    expected = gather([*exposed(bench.experiment, whole).values(), *known.values()])
    assert len(known) > 2, "the rows span several days"
    same(expected, bench.evidence())


def test_nothing_counts_twice(bench: Bench, rows) -> None:
    bench.expose(ids(5), rows(5))
    bench.observe(ids(5), np.ones(5))
    before = bench.evidence()
    assert bench.expose(ids(5), rows(5)) == Counter(repeated=5)
    assert bench.observe(ids(5), np.zeros(5)) == Counter(repeated=5)
    assert bench.expose(["q", "q"], rows(2)) == Counter(counted=1, repeated=1)
    assert bench.observe(["q", "q"], [1, 0]) == Counter(counted=1, repeated=1)
    assert bench.evidence().outcomes == before.outcomes + 1


def test_arms_may_come_in_another_order(bench: Bench, rows) -> None:
    given = rows(6, assigned=np.zeros(6, dtype=np.int64))
    bench.expose(ids(6), given, arms=("challenger", "champion"))
    bench.observe(ids(6), np.ones(6))
    found = bench.evidence()
    assert found.arm("brier", 1).mean == pytest.approx(((given.scores[:, 0] - 1) ** 2).mean())
    assert found.exposed(2) == (0, 6)


def test_what_belongs_to_nothing_is_told(bench: Bench, rows) -> None:
    assert bench.expose(ids(2), rows(2), experiment_id="other") == Counter(unknown=2)
    assert bench.expose(ids(2), rows(2), arms=("champion", "x")) == Counter(unknown=2)
    future = np.array([START, START * 2], dtype=np.int64)
    assert bench.expose(ids(2), rows(2, event_times_us=future)) == Counter(refused=1, counted=1)
    strange = ["", "x" * 500, "nul\0"]
    assert bench.expose(strange, rows(3)) == Counter(refused=3)
    assert bench.observe(["p-0", "p-9"], [np.nan, np.inf]) == Counter(refused=2)
    bench.conclude()
    assert bench.expose(ids(2), rows(2)) == Counter(unknown=2)
    assert bench.observe(["p-0"], [1.0]) == Counter(unknown=1)


@pytest.mark.parametrize("outcome_first", [False, True])
def test_an_outcome_can_come_too_late(bench: Bench, rows, outcome_first: bool) -> None:
    delay = int(bench.experiment.max_outcome_delay.total_seconds()) * 1_000_000
    given = rows(2)
    times = given.event_times_us + np.array([delay, delay + 1])
    if outcome_first:
        bench.observe(ids(2), [1, 1], times)
        bench.expose(ids(2), given)
    else:
        bench.expose(ids(2), given)
        assert bench.observe(ids(2), [1, 1], times) == Counter(counted=1, late=1)
    assert bench.evidence().outcomes == 1


def test_a_randomized_unit_counts_once(engine: Engine, make_experiment, rows) -> None:
    bench = Bench(
        engine,
        make_experiment(
            id="exp-r", design=Design.RANDOMIZED, arms=(Arm("champion"), Arm("challenger"))
        ),
    )
    units = ["anna", "bert", "anna", "", ""]
    assert bench.expose(ids(5), rows(5), unit_ids=units) == Counter(counted=4, repeated=1)
    assert bench.expose(ids(2, "q"), rows(2), unit_ids=["bert", "carl"]) == Counter(
        counted=1, repeated=1
    )
    assert bench.evidence().exposed(2) == (5, 0)
    assert bench.count("units") == 5


def test_one_prediction_in_two_experiments(bench: Bench, make_experiment, rows) -> None:
    other = Bench(bench.engine, make_experiment(id="exp-2", primary=MetricSpec("log_loss")))
    bench.expose(ids(3), rows(3))
    other.expose(ids(3), rows(3))
    assert bench.observe(ids(3), np.ones(3)) == Counter(counted=6)
    assert bench.evidence().arm("brier", 0).n == 3
    assert other.evidence().arm("log_loss", 0).n == 3


def test_exposure_and_outcome_at_the_same_moment_find_each_other(bench: Bench, rows) -> None:
    """Two consumers at once, as the service runs them; neither may miss the other."""
    names = [ids(20, f"r{turn}") for turn in range(8)]
    threads = [
        threading.Thread(
            target=lambda: [bench.expose(part, rows(20)) for part in names], name="exposures"
        ),
        threading.Thread(target=lambda: [bench.observe(part, np.ones(20)) for part in names]),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert bench.evidence().outcomes == 160


def test_rows_are_forgotten_when_they_can_change_nothing(bench: Bench, rows) -> None:
    old = START - 3 * DAY_US + np.arange(4, dtype=np.int64)
    bench.expose(ids(4, "old"), rows(4, event_times_us=old))
    bench.expose(ids(4), rows(4))
    bench.observe(["stray"], [1.0])
    assert bench.sweep() == 4
    assert (bench.count("exposures"), bench.count("held_outcomes")) == (4, 1)
    sums = bench.evidence()
    bench.clock.advance(timedelta(hours=2))
    assert bench.sweep() == 1
    bench.conclude()
    assert bench.sweep() == 4
    assert bench.sweep() == 0
    same(sums, bench.evidence())


def test_outcomes_that_wait_are_bounded_in_number(bench: Bench) -> None:
    bench.observe(ids(30), np.ones(30))
    assert bench.sweep(most=10) == 20
    assert bench.count("held_outcomes") == 10
