from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor_svc.domain.performance import (
    labelled_quality,
    loss_change,
    metrics,
    no_quality,
    total_quality,
)

pairs = st.lists(st.tuples(st.floats(0, 1), st.sampled_from([0.0, 1.0])), max_size=50)


def _of(rows: list[tuple[float, float]]):
    table = np.array(rows, dtype=np.float64).reshape(-1, 2)
    return labelled_quality(table[:, 0], table[:, 1])


@given(pairs, pairs)
def test_sums_add_and_subtract(first, second):
    whole, parts = _of(first + second), _of(first) + _of(second)
    assert whole.positives.tolist() == parts.positives.tolist()
    assert whole.negatives.tolist() == parts.negatives.tolist()
    assert np.allclose(whole.sums, parts.sums)
    back = parts - _of(second)
    assert back.negatives.tolist() == _of(first).negatives.tolist()
    assert np.allclose(back.sums, _of(first).sums)


def test_metrics_agree_with_scikit_learn():
    sklearn = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(1)
    scores = rng.beta(2, 5, size=20_000)
    labels = (rng.random(20_000) < scores).astype(float)
    found = metrics(no_quality(25_000) + labelled_quality(scores, labels))
    assert found["coverage"] == pytest.approx(0.8)
    assert found["base_rate"] == pytest.approx(labels.mean())
    assert found["brier"] == pytest.approx(sklearn.brier_score_loss(labels, scores))
    assert found["log_loss"] == pytest.approx(sklearn.log_loss(labels, scores), rel=1e-6)
    assert found["pr_auc"] == pytest.approx(
        sklearn.average_precision_score(labels, scores), abs=2e-3
    )
    assert found["roc_auc"] == pytest.approx(sklearn.roc_auc_score(labels, scores), abs=1e-3)
    assert found["calibration_error"] < 0.03


def test_metrics_without_labels_or_with_one_kind_only():
    assert metrics(no_quality(10)) == {"coverage": 0.0}
    found = metrics(labelled_quality(np.array([0.2, 0.9]), np.array([1.0, 1.0])))
    assert "pr_auc" not in found
    assert found["base_rate"] == 1.0


def test_other_labels_give_errors_of_a_regression():
    found = metrics(labelled_quality(np.array([3.0, 5.0]), np.array([4.0, 7.0])))
    assert found["mse"] == pytest.approx(2.5)
    assert found["mae"] == pytest.approx(1.5)
    assert "log_loss" not in found


def test_loss_change_finds_a_worse_model_only():
    rng = np.random.default_rng(2)

    def sample(flipped: bool):
        p = rng.beta(2, 2, size=3_000)
        y = (rng.random(3_000) < (1 - p if flipped else p)).astype(float)
        return labelled_quality(p, y)

    good = total_quality([sample(False), sample(False)])
    same, worse = loss_change(good, sample(False)), loss_change(good, sample(True))
    assert same is not None
    assert abs(same.z) < 4
    assert worse is not None
    assert worse.z > 10
    assert loss_change(no_quality(), good) is None
