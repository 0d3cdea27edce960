"""Comparisons: standard errors by hand, the paired gain, and honest handling of rare values."""

from __future__ import annotations

import numpy as np
import pytest

from experiment_svc.domain import (
    Guardrail,
    MetricSpec,
    Moments,
    Pair,
    Sequence,
    breaches,
    compare,
    contrast,
)

rng = np.random.default_rng(5)
CONTROL = rng.gamma(2.0, 1.0, 4_000)
TREATMENT = 0.9 * CONTROL + rng.normal(0.1, 0.1, 4_000)
SEQUENCE = Sequence(0.05, 500)


def of(control: np.ndarray, treatment: np.ndarray, paired: bool) -> Pair:
    difference = Moments.of(treatment - control) if paired else None
    return Pair(Moments.of(control), Moments.of(treatment), difference)


@pytest.mark.parametrize("ratio", [1.0, 0.8, 1.5])
def test_paired_contrasts_equal_those_of_the_rows(ratio: float) -> None:
    rows = TREATMENT - ratio * CONTROL
    # The further unit at a contrast of zero, as rows.
    further = np.append(rows, 0.0)
    squared = np.square(further - further.mean()).sum() / (rows.size - 1) / rows.size
    found = contrast(of(CONTROL, TREATMENT, True), ratio)
    assert found.value == pytest.approx(rows.mean())
    assert found.standard_error == pytest.approx(np.sqrt(squared), rel=1e-3)
    assert found.samples == 4_000


def test_randomized_contrasts_add_the_variances() -> None:
    found = contrast(of(CONTROL, TREATMENT[:900], False))
    both = np.concatenate([CONTROL, TREATMENT[:900]]).var(ddof=1)
    expected = CONTROL.var(ddof=1) / 4_000 + max(TREATMENT[:900].var(ddof=1), both) / 900
    assert found.standard_error == pytest.approx(np.sqrt(expected), rel=1e-3)
    assert found.samples == 4_900


def test_pairing_narrows_the_interval() -> None:
    spec = MetricSpec("squared_error")
    wide = compare(of(CONTROL, TREATMENT, False), spec, SEQUENCE)
    narrow = compare(of(CONTROL, TREATMENT, True), spec, SEQUENCE)
    assert narrow.improvement == pytest.approx(wide.improvement)
    assert narrow.upper - narrow.lower < 0.3 * (wide.upper - wide.lower)


def test_direction_turns_the_improvement_and_keeps_the_ends_in_order() -> None:
    arms = of(CONTROL, TREATMENT, True)
    less = compare(arms, MetricSpec("latency"), SEQUENCE)
    more = compare(arms, MetricSpec("outcome_mean", higher_is_better=True), SEQUENCE)
    assert less.improvement == -more.improvement == pytest.approx(-(TREATMENT - CONTROL).mean())
    assert (less.lower, less.upper) == (-more.upper, -more.lower)
    assert less.lower < less.improvement < less.upper
    assert less.p_value == more.p_value


def test_values_that_are_all_alike_are_no_certainty_until_there_are_many() -> None:
    def alike(n: int) -> Pair:
        return of(np.zeros(n), np.full(n, 0.1), True)

    few = compare(alike(3), MetricSpec("brier"), SEQUENCE)
    many = compare(alike(300), MetricSpec("brier"), SEQUENCE)
    assert few.lower < 0 < few.upper
    assert many.upper < 0
    same = compare(of(np.ones(50), np.ones(50), True), MetricSpec("brier"), SEQUENCE)
    assert (same.lower, same.upper, same.p_value) == (0.0, 0.0, 1.0)


def test_guardrails_by_value_and_by_ratio() -> None:
    errors = MetricSpec("error_rate")
    good, bad = np.tile([0.0] * 99 + [1.0], 20), np.tile([0.0] * 9 + [1.0], 200)
    for paired in (True, False):
        ill = of(good, bad[:2_000], paired)
        assert breaches(ill, Guardrail(errors, max_value=0.05), SEQUENCE)
        assert breaches(ill, Guardrail(errors, max_ratio=2.0), SEQUENCE)
        assert not breaches(ill, Guardrail(errors, max_value=0.2, max_ratio=50.0), SEQUENCE)
        well = of(good, good, paired)
        assert not breaches(well, Guardrail(errors, 0.011, 1.1), SEQUENCE)


def test_a_guardrail_at_its_bound_is_rarely_called_breached() -> None:
    rows = rng.random((400, 4_000)) < 0.01
    looks = range(50, 4_000, 50)
    rail = Guardrail(MetricSpec("error_rate"), max_value=0.01)

    def alarmed(row: np.ndarray) -> bool:
        counts = np.cumsum(row)
        means = [(n, counts[n - 1] / n) for n in looks]
        moments = [Moments(n, m, n * m * (1 - m)) for n, m in means]
        return any(breaches(Pair(one, one, one), rail, SEQUENCE) for one in moments)

    assert np.mean([alarmed(row) for row in rows]) <= 0.05
