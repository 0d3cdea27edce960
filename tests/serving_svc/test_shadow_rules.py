"""Comparing shadows: the statistics beside those of scipy, numpy and pandas."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from serving_svc.domain import shadows
from serving_svc.domain.shadows import Pairs, Side, agreement, compared, correlation, latency, ranks

scores = st.one_of(
    st.floats(-(2.0**99), 2.0**99, width=32),
    st.floats(0, 1, width=32),
    st.sampled_from([0.0, 0.25, 0.5]),
)
pairs = st.lists(st.tuples(scores, scores), min_size=1, max_size=60).map(
    lambda rows: np.array(rows, np.float64).T
)


@given(pairs)
def test_agreement_and_differences_are_numpy_s(found: np.ndarray) -> None:
    answers, shadow = found
    alike = agreement(answers, shadow, 0.5, 1e-6)
    assert alike is not None
    assert alike.rows == len(answers)
    differences = pd.Series(shadow - answers)
    assert alike.classes == np.mean((answers >= 0.5) == (shadow >= 0.5))
    assert alike.exact == np.mean(np.isclose(shadow, answers, rtol=0, atol=1e-6))
    assert alike.difference == pytest.approx(differences.mean(), rel=1e-9, abs=1e-12)
    assert alike.absolute == pytest.approx(differences.abs().mean(), rel=1e-9)
    assert alike.rmse == pytest.approx(math.sqrt((differences**2).mean()), rel=1e-9)
    if len(answers) == 1:
        assert alike.interval is None
    else:
        scale = differences.std(ddof=1) / math.sqrt(len(answers))
        if scale > 1e-9 * max(1.0, differences.abs().max()):
            ends = stats.norm.interval(0.95, differences.mean(), scale)
            assert alike.interval == pytest.approx(ends, rel=1e-9)


@given(pairs)
def test_correlations_are_scipy_s(found: np.ndarray) -> None:
    one, other = found
    assert ranks(one).tolist() == stats.rankdata(one).tolist()
    if len(one) < 2 or np.ptp(one) == 0 or np.ptp(other) == 0:
        assert correlation(one, other) is None
        assert correlation(ranks(one), ranks(other)) is None
        return
    expected = stats.spearmanr(one, other).statistic
    assert correlation(ranks(one), ranks(other)) == pytest.approx(expected, abs=1e-9)
    # Of numbers that differ in their last digits alone, no two ways of computing give the same.
    assume(min(np.ptp(each) / np.abs(each).max() for each in (one, other)) > 1e-6)
    expected = stats.pearsonr(one / np.abs(one).max(), other / np.abs(other).max()).statistic
    assert correlation(one, other) == pytest.approx(expected, abs=1e-6)


def test_on_a_large_sample_with_ties_pandas_says_the_same() -> None:
    luck = np.random.default_rng(7)
    answers = luck.beta(2, 5, 20_000).round(3)
    shadow = np.clip(answers + luck.normal(0.01, 0.05, 20_000), 0, 1).round(3)
    frame = pd.DataFrame({"answers": answers, "shadow": shadow})
    found = agreement(answers, shadow, 0.3, 0.01)
    assert found is not None
    assert found.pearson == pytest.approx(frame.corr("pearson").iloc[0, 1], rel=1e-12)
    assert found.spearman == pytest.approx(frame.corr("spearman").iloc[0, 1], rel=1e-12)
    assert found.classes == ((answers >= 0.3) == (shadow >= 0.3)).mean()
    assert found.interval is not None
    assert found.interval[0] < found.difference < found.interval[1]


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    luck = np.random.default_rng(3)
    held = 0
    for _ in range(2_000):
        answers = luck.random(200)
        found = agreement(answers, answers + luck.normal(0.02, 0.1, 200), 0.5, 0.0)
        assert found is not None
        assert found.interval is not None
        held += found.interval[0] <= 0.02 <= found.interval[1]
    assert 0.93 < held / 2_000 < 0.97


def test_a_score_at_the_threshold_is_of_the_upper_class() -> None:
    found = agreement(np.array([0.5, 0.5]), np.array([0.4999, 0.7]), 0.5, 0.0)
    assert found is not None
    assert (found.classes, found.exact) == (0.5, 0.0)


def test_latencies_are_of_the_rows_whose_time_is_known() -> None:
    known = np.arange(1.0, 101.0)
    found = latency(np.concatenate([known, [np.nan, np.nan]]))
    assert found is not None
    assert (found.rows, found.mean, found.p50) == (100, 50.5, 50.5)
    assert (found.p95, found.p99) == tuple(np.percentile(known, (95, 99)))
    assert latency(np.array([np.nan])) is None


def side(name: str) -> Side:
    return Side(name, f"models/m/versions/{name[1:]}")


def test_a_shadow_that_never_answers_has_failures_and_nothing_else() -> None:
    nothing = np.array([])
    pairs = Pairs(side("v2"), side("v1"), nothing, nothing, nothing, nothing, {"MODEL_FAILED": 3})
    found = compared(pairs, 0.5, 1e-6)
    assert (found.agreement, found.latency, found.answered_latency) == (None, None, None)
    assert found.failures == {"MODEL_FAILED": 3}


def test_comparisons_come_by_their_rows() -> None:
    def of(name: str, rows: int) -> shadows.ShadowComparison:
        values = np.linspace(0, 1, rows)
        return compared(Pairs(side(name), side("v1"), values, values, values, values), 0.5, 1e-6)

    found = shadows.ordered([of("v4", 0), of("v3", 5), of("v2", 9), of("v5", 5)])
    assert [each.shadow.variant for each in found] == ["v2", "v3", "v5", "v4"]
