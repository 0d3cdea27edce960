"""Metrics against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from training_svc.domain import metrics
from training_svc.domain.metrics import METRICS, PRIMARY, Floats, all_metrics, gain
from training_svc.domain.resampling import RESAMPLED, drawn

REFERENCE = {
    "pr_auc": sk.average_precision_score,
    "roc_auc": sk.roc_auc_score,
    "log_loss": sk.log_loss,
    "brier": sk.brier_score_loss,
}


@st.composite
def scored(draw: st.DrawFn) -> tuple[Floats, Floats]:
    """Labels of both classes with scores, many of them tied."""
    rows = draw(st.integers(2, 60))
    steps = draw(st.sampled_from([2, 5, 1000]))
    generator = np.random.default_rng(draw(st.integers(0, 10**6)))
    labels = generator.integers(0, 2, rows).astype(float)
    labels[:2] = [0, 1]
    return labels, generator.integers(0, steps + 1, rows) / steps


@pytest.mark.parametrize("name", PRIMARY)
@given(scored())
@settings(max_examples=60, deadline=None)
def test_metrics_agree_with_scikit_learn(name: str, pair: tuple[Floats, Floats]) -> None:
    labels, scores = pair
    # scikit-learn keeps scores further from 0 and 1 than we do.
    inside = np.clip(scores, 1e-3, 1 - 1e-3)
    assert METRICS[name](labels, inside) == pytest.approx(REFERENCE[name](labels, inside))


@pytest.mark.parametrize("name", PRIMARY)
@given(scored(), st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_a_resample_is_measured_like_its_rows(
    name: str, pair: tuple[Floats, Floats], seed: int
) -> None:
    labels, scores = pair
    counts = drawn(np.random.default_rng(seed), 5, len(labels))
    for row, value in zip(counts, RESAMPLED[name](labels, scores)(counts), strict=True):
        repeated = np.repeat(np.arange(len(labels)), row.astype(int))
        expected = METRICS[name](labels[repeated], scores[repeated])
        assert value == pytest.approx(expected, nan_ok=True)


def test_a_resample_draws_as_many_rows_as_there_are() -> None:
    counts = drawn(np.random.default_rng(0), 200, 50)
    assert (counts.sum(axis=1) == 50).all()
    assert counts.mean(axis=0) == pytest.approx(np.ones(50), abs=0.35)


def test_calibration_error_is_the_gap_of_the_bins() -> None:
    scores = np.repeat([0.25, 0.75], 100)
    labels = np.r_[np.ones(25), np.zeros(75), np.ones(50), np.zeros(50)]
    assert metrics.calibration_error(labels, scores) == pytest.approx(0.125)
    assert metrics.calibration_error(np.ones(3), np.ones(3)) == 0


def test_what_is_not_defined_is_left_out() -> None:
    found = all_metrics(np.zeros(4), np.full(4, 0.1))
    assert "pr_auc" not in found
    assert "roc_auc" not in found
    assert found["rows"] == 4
    assert found["base_rate"] == 0


@pytest.mark.parametrize(("name", "better", "worse"), [("pr_auc", 0.6, 0.5), ("brier", 0.1, 0.2)])
def test_a_gain_is_positive_when_better(name: str, better: float, worse: float) -> None:
    assert gain(name, better, worse) == pytest.approx(0.1)
    assert gain(name, worse, better) == pytest.approx(-0.1)
