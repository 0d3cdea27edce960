"""Metrics: their values, and what they refuse to measure."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as oracle

from experiment_svc.domain import METRICS, find_metric
from service_kit.errors import InvalidArgument

rng = np.random.default_rng(3)
SCORES = rng.random(200)
LABELS = (rng.random(200) < 0.3).astype(float)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("brier", oracle.brier_score_loss(LABELS, SCORES)),
        ("log_loss", oracle.log_loss(LABELS, SCORES)),
        ("absolute_error", oracle.mean_absolute_error(LABELS, SCORES)),
        ("squared_error", oracle.mean_squared_error(LABELS, SCORES)),
        ("outcome_mean", LABELS.mean()),
    ],
)
def test_means_agree_with_scikit_learn(name: str, expected: float) -> None:
    assert METRICS[name].measure(SCORES, LABELS).mean() == pytest.approx(expected)


@pytest.mark.parametrize("name", ["brier", "log_loss"])
def test_what_is_no_probability_has_no_value(name: str) -> None:
    measure = METRICS[name].measure
    scores = np.array([1.2, -0.1, np.nan, 0.5, 0.0])
    outcomes = np.array([1.0, 0.0, 1.0, 2.0, 1.0])
    assert np.isfinite(measure(scores, outcomes)).tolist() == [False] * 4 + [True]


def test_an_unknown_metric_is_refused_by_field() -> None:
    with pytest.raises(InvalidArgument) as raised:
        find_metric("accuracy", "experiment.primary.metric")
    assert raised.value.reason == "UNKNOWN_METRIC"
    assert raised.value.field == "experiment.primary.metric"
