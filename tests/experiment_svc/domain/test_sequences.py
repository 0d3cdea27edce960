"""Confidence sequences: the published boundary, and its coverage under peeking."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, optimize, stats

from experiment_svc.domain import Sequence

LOOKS = np.unique(np.geomspace(100, 10_000, 100).astype(int))
SIMULATIONS = 400


def mixture(z: float, n: int, rho_squared: float) -> float:
    """Likelihood ratio of N(0, rho²) mixed means against 0, by numerical integration."""

    def weighted(mean: float) -> float:
        ratio = math.exp(z * math.sqrt(n) * mean - n * mean**2 / 2)
        return ratio * float(stats.norm.pdf(mean, scale=math.sqrt(rho_squared)))

    return float(integrate.quad(weighted, -1.5, 1.5, points=[z / math.sqrt(n)], limit=200)[0])


@pytest.mark.parametrize("n", [50, 500, 5_000])
def test_the_boundary_is_where_the_normal_mixture_reaches_one_over_alpha(n: int) -> None:
    sequence = Sequence(0.05, 500)
    z = sequence.multiplier(n)
    assert mixture(z, n, sequence.rho_squared) == pytest.approx(1 / 0.05, rel=1e-3)


@pytest.mark.parametrize("alpha", [0.001, 0.05, 0.3])
def test_the_tuning_is_the_best_there_is(alpha: float) -> None:
    def width(log_rho_squared: float) -> float:
        x = 700 * math.exp(log_rho_squared) + 1
        return math.sqrt(x / (x - 1) * (math.log(x) - 2 * math.log(alpha)))

    best = optimize.minimize_scalar(width, bounds=(-15, 0), method="bounded").fun
    assert Sequence(alpha, 700).multiplier(700) == pytest.approx(best, rel=1e-6)


@given(st.floats(1e-4, 0.4), st.integers(20, 10**5), st.integers(20, 10**6), st.floats(-6, 6))
def test_p_value_and_interval_agree(alpha: float, tuned: int, n: int, z: float) -> None:
    sequence = Sequence(alpha, tuned)
    interval = sequence.interval(z, 1.0, n)
    assert interval.lower <= z <= interval.upper
    outside = not interval.lower <= 0 <= interval.upper
    assert outside == (interval.p_value < alpha) or interval.p_value == pytest.approx(alpha)


@given(st.floats(1e-4, 0.4), st.integers(20, 10**5), st.integers(20, 10**6))
def test_it_is_wider_than_a_fixed_sample_and_narrower_with_more_data(
    alpha: float, tuned: int, n: int
) -> None:
    sequence = Sequence(alpha, tuned)
    assert sequence.multiplier(n) > stats.norm.isf(alpha / 2)
    now, later = (sequence.multiplier(m) / math.sqrt(m) for m in (n, 2 * n))
    assert later < now
    assert Sequence(alpha / 2, tuned).multiplier(n) > sequence.multiplier(n)


def test_without_any_variance_only_zero_is_possible_or_impossible() -> None:
    assert Sequence(0.05, 100).interval(0.0, 0.0, 50).p_value == 1
    assert Sequence(0.05, 100).interval(0.5, 0.0, 50).p_value == 0


def errors(draw: np.ndarray, truth: float, multipliers: np.ndarray) -> float:
    """Share of runs (rows) whose interval leaves out the truth at any look."""
    n = LOOKS
    mean = np.cumsum(draw, axis=1)[:, n - 1] / n
    variance = np.cumsum(draw**2, axis=1)[:, n - 1] / n - mean**2
    outside = np.abs(mean - truth) > multipliers * np.sqrt(variance / n)
    return float(outside.any(axis=1).mean())


@pytest.mark.parametrize("shape", ["normal", "uniform", "heavy"])
def test_coverage_holds_over_all_looks_together(shape: str) -> None:
    rng = np.random.default_rng(7)
    size = (SIMULATIONS, LOOKS[-1])
    draw = {
        "normal": lambda: rng.normal(size=size),
        "uniform": lambda: rng.random(size) - 0.5,
        "heavy": lambda: rng.standard_t(5, size=size),
    }[shape]()
    sequence = Sequence(0.05, 500)
    always = np.array([sequence.multiplier(int(n)) for n in LOOKS])
    # Three standard errors of a simulated share of 5 %.
    assert errors(draw, 0.0, always) <= 0.05 + 0.033
    # The same data looked at with the interval of a fixed sample: peeking is not free there.
    assert errors(draw, 0.0, np.full(LOOKS.size, 1.96)) > 0.2
