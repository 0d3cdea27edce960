"""Sample ratio mismatch: quiet at the intended shares, quick when an arm loses units."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from experiment_svc.domain import SRM_ALPHA, srm_p_value


@given(
    st.lists(st.tuples(st.integers(0, 400), st.floats(0.1, 10)), min_size=2, max_size=4),
    st.floats(1, 1e4),
)
def test_it_is_the_inverse_bayes_factor(rows: list[tuple[int, float]], prior: float) -> None:
    counts = np.array([count for count, _ in rows])
    shares = np.array([weight for _, weight in rows])
    shares = shares / shares.sum()
    n = int(counts.sum())
    null = stats.multinomial.logpmf(counts, n, shares)
    other = stats.dirichlet_multinomial.logpmf(counts, prior * shares, n)
    expected = min(1.0, math.exp(null - other))
    found = srm_p_value(counts.tolist(), [weight for _, weight in rows], prior)
    assert found == pytest.approx(expected, rel=1e-5)


def paths(treated: float, runs: int) -> np.ndarray:
    rng = np.random.default_rng(11)
    return np.cumsum(rng.random((runs, 20_000)) < treated, axis=1)


def test_false_alarms_over_many_looks() -> None:
    looks = np.arange(20, 20_001, 60)
    alarmed = [
        any(
            srm_p_value([int(n - x), int(x)], [0.9, 0.1]) < SRM_ALPHA
            for n, x in zip(looks, path[looks - 1], strict=True)
        )
        for path in paths(0.1, 100)
    ]
    assert np.mean(alarmed) <= 0.03


def test_a_lost_twentieth_of_an_arm_is_seen() -> None:
    share = 0.475 / 0.975
    found = [srm_p_value([20_000 - int(p[-1]), int(p[-1])], [1, 1]) for p in paths(share, 200)]
    assert np.mean(np.array(found) < SRM_ALPHA) > 0.4
    assert srm_p_value([500, 0], [1, 1]) < 1e-6
