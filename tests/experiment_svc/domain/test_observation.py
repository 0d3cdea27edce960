"""Observation: batches add up to the whole, and only usable rows count."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from experiment_svc.domain import (
    DAY_US,
    Design,
    Evidence,
    Guardrail,
    Kind,
    MetricSpec,
    Moments,
    Series,
    Tally,
    exposed,
    gather,
    observed,
)

DIFFERENCE = Kind.DIFFERENCE.value


def watch(experiment, rows, outcomes) -> Evidence:
    known = observed(experiment, rows.assigned, rows.scores, rows.event_times_us, outcomes)
    return gather([*exposed(experiment, rows).values(), *known.values()])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(cut=st.integers(0, 60), design=st.sampled_from(Design))
def test_two_batches_add_up_to_one(make_experiment, make_rows, cut: int, design: Design) -> None:
    rng = np.random.default_rng(cut)
    experiment = make_experiment(design=design, guardrails=(Guardrail(MetricSpec("log_loss"), 1),))
    rows = make_rows(60, assigned=rng.integers(0, 2, 60))
    outcomes = rng.integers(0, 2, 60).astype(float)
    index = np.arange(60)
    parts = [
        watch(experiment, rows.take(part), outcomes[part])
        for part in (index[:cut], index[cut:])
        if part.size
    ]
    one, sums = watch(experiment, rows, outcomes), gather(parts)
    assert one.tallies == sums.tallies
    assert one.newest_us == sums.newest_us
    assert set(one.moments) == set(sums.moments)
    for series, moments in one.moments.items():
        assert moments.n == sums.moments[series].n
        assert moments.mean == pytest.approx(sums.moments[series].mean, abs=1e-12)
        assert moments.m2 == pytest.approx(sums.moments[series].m2, abs=1e-9)


def test_pairs_are_compared_within_units(make_experiment, make_rows) -> None:
    rows = make_rows(50)
    outcomes = (np.arange(50) % 3 == 0).astype(float)
    found = watch(make_experiment(), rows, outcomes)
    losses = (rows.scores - outcomes[:, None]) ** 2
    expected = Moments.of(losses[:, 1] - losses[:, 0])
    assert found.difference("brier", 1).mean == pytest.approx(expected.mean)
    assert found.difference("brier", 1).variance == pytest.approx(expected.variance)
    assert found.arm("brier", 0).mean == pytest.approx(losses[:, 0].mean())


def test_a_pair_with_a_missing_score_counts_on_neither_side(make_experiment, make_rows) -> None:
    rows = make_rows(5)
    rows.scores[2, 1] = np.nan
    found = watch(make_experiment(), rows, np.ones(5))
    assert {found.arm("brier", arm).n for arm in (0, 1)} == {4}
    assert found.difference("brier", 1).n == 4
    assert found.outcomes == 5


def test_randomized_units_count_for_the_arm_that_answered(make_experiment, make_rows) -> None:
    rows = make_rows(10, assigned=np.array([0, 1] * 5))
    found = watch(make_experiment(design=Design.RANDOMIZED), rows, np.ones(10))
    assert found.arm("brier", 1).mean == pytest.approx(((rows.scores[1::2, 1] - 1) ** 2).mean())
    assert not [series for series in found.moments if series.kind == DIFFERENCE]
    assert found.exposed(2) == (5, 5)


def test_latency_and_errors_are_known_before_any_outcome(make_experiment, make_rows) -> None:
    failed = np.zeros((4, 2))
    failed[0, 1] = 1
    latency = np.full((4, 2), 100.0)
    latency[0, 1] = np.nan
    found = gather(
        exposed(make_experiment(), make_rows(4, failed=failed, latencies_us=latency)).values()
    )
    assert found.arm("error_rate", 1).mean == 0.25
    assert found.arm("latency", 1) == Moments(3, 100.0, 0.0)
    assert found.outcomes == 0


def test_days_are_kept_apart(make_experiment, make_rows) -> None:
    times = np.array([0, DAY_US - 1, DAY_US, -1], dtype=np.int64)
    found = exposed(make_experiment(), make_rows(4, event_times_us=times))
    assert {day: part.tallies[0] for day, part in found.items()} == {
        -1: Tally(1),
        0: Tally(2),
        1: Tally(1),
    }
    assert found[0].newest_us == DAY_US - 1
    assert found[1].moments[Series("latency", 0)].n == 1
