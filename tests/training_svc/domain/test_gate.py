"""The gate and its paired bootstrap."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from training_svc.domain.gate import Holdout, judge, paired_bootstrap
from training_svc.domain.metrics import METRICS, Floats
from training_svc.domain.pipelines import EvaluationSpec, GateSpec, MetricBound

EVALUATION = EvaluationSpec(resamples=200)


def world(rows: int, seed: int = 0) -> tuple[Floats, Floats, Floats]:
    """Labels, with scores of a good and of a worse model."""
    generator = np.random.default_rng(seed)
    truth = generator.beta(1, 3, rows)
    labels = (generator.random(rows) < truth).astype(float)
    good = np.clip(truth + generator.normal(0, 0.05, rows), 0.001, 0.999)
    worse = np.clip(truth + generator.normal(0, 0.25, rows), 0.001, 0.999)
    return labels, good, worse


@pytest.mark.parametrize("metric", ["pr_auc", "brier"])
def test_the_interval_is_that_of_scipy(metric: str) -> None:
    labels, good, worse = world(400)
    measure = METRICS[metric]
    sign = -1 if metric == "brier" else 1

    def difference(truth: Floats, ours: Floats, theirs: Floats) -> float:
        return sign * (measure(truth, ours) - measure(truth, theirs))

    theirs = stats.bootstrap(
        (labels, good, worse),
        difference,
        paired=True,
        vectorized=False,
        n_resamples=2000,
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval
    ours = paired_bootstrap(metric, labels, good, worse, resamples=2000, confidence=0.95, seed=2)
    width = theirs.high - theirs.low
    assert ours.lower == pytest.approx(theirs.low, abs=0.1 * width)
    assert ours.upper == pytest.approx(theirs.high, abs=0.1 * width)
    assert ours.lower < ours.value < ours.upper


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    # Truth: mean of the differences of squared errors, which is 0 for models of one kind.
    covered = 0
    for seed in range(200):
        generator = np.random.default_rng(seed)
        labels = (generator.random(300) < 0.3).astype(float)
        one, other = generator.random((2, 300))
        found = paired_bootstrap(
            "brier", labels, one, other, resamples=200, confidence=0.9, seed=seed
        )
        covered += found.lower <= 0 <= found.upper
    assert 0.83 <= covered / 200 <= 0.96


def test_the_same_seed_gives_the_same_interval() -> None:
    labels, good, worse = world(500)
    first, again, other = (
        paired_bootstrap("pr_auc", labels, good, worse, resamples=50, confidence=0.9, seed=seed)
        for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


def test_five_hundred_resamples_of_a_month_are_quick() -> None:
    labels, good, worse = world(13_000)
    began = time.process_time()
    paired_bootstrap("pr_auc", labels, good, worse, resamples=500, confidence=0.95, seed=0)
    assert time.process_time() - began < 3.0


def test_the_first_version_passes_and_says_so() -> None:
    labels, good, _ = world(500)
    verdict = judge(Holdout(labels, good, None, {}), GateSpec(), EVALUATION, {}, 0)
    assert verdict.passed
    assert verdict.reasons == ("no champion to beat: the first version",)


def test_a_better_challenger_passes_and_a_worse_one_is_refused_with_the_numbers() -> None:
    labels, good, worse = world(3000)
    passed = judge(Holdout(labels, good, worse, {}), GateSpec(), EVALUATION, {}, 0)
    assert passed.passed
    assert "pr_auc gains +" in passed.reasons[0]
    refused = judge(Holdout(labels, worse, good, {}), GateSpec(), EVALUATION, {}, 0)
    assert not refused.passed
    assert "not above 0" in refused.reasons[0]


def test_an_equal_challenger_is_refused() -> None:
    labels, good, _ = world(1000)
    verdict = judge(Holdout(labels, good, good, {}), GateSpec(), EVALUATION, {}, 0)
    assert [each.check for each in verdict.checks if not each.passed] == ["pr_auc_gain"]


def test_the_gain_must_lie_above_the_least_gain() -> None:
    labels, good, worse = world(3000)
    found = judge(Holdout(labels, good, worse, {}), GateSpec(), EVALUATION, {}, 0)
    lower = next(each.lower for each in found.checks if each.check == "pr_auc_gain")
    for least, passes in ((lower - 1e-9, True), (lower, False)):
        spec = GateSpec(min_gain=least)
        assert judge(Holdout(labels, good, worse, {}), spec, EVALUATION, {}, 0).passed is passes


@pytest.mark.parametrize(
    "labels", [np.zeros(500), np.ones(500), np.r_[np.zeros(150), np.ones(40)], np.empty(0)]
)
def test_too_small_a_holdout_is_refused(labels: Floats) -> None:
    scores = np.full(len(labels), 0.5)
    verdict = judge(Holdout(labels, scores, scores, {}), GateSpec(), EVALUATION, {}, 0)
    assert not verdict.passed
    assert [each.check for each in verdict.checks] == ["holdout_rows"]


def test_bounds_hold_whatever_is_gained() -> None:
    labels, good, worse = world(1000)
    holdout = Holdout(labels, good, worse, {})
    bounds = (MetricBound("model_bytes", maximum=1e6), MetricBound("roc_auc", minimum=0.6))
    spec = GateSpec(bounds=bounds)
    good_ones = {"model_bytes": 1e6, "roc_auc": 0.6}
    assert judge(holdout, spec, EVALUATION, good_ones, 0).passed
    for name, value in (("model_bytes", 1e6 + 1), ("roc_auc", 0.59), ("roc_auc", float("nan"))):
        verdict = judge(holdout, spec, EVALUATION, {**good_ones, name: value}, 0)
        assert [each.check for each in verdict.checks if not each.passed] == [f"bound:{name}"]
        json.dumps(verdict.document(), allow_nan=False)


def test_no_segment_may_pay_for_the_others() -> None:
    labels, good, _ = world(4000)
    carrier = np.where(np.arange(4000) < 1000, "UA", "AA")
    # Better for three quarters of the rows, and much worse for the rest.
    challenger = np.where(carrier == "UA", 1 - good, good)
    champion = np.where(carrier == "UA", good, 1 - good)
    holdout = Holdout(labels, challenger, champion, {"carrier": carrier})
    spec = GateSpec(max_segment_loss=0.05)
    verdict = judge(holdout, spec, EVALUATION, {}, 0)
    failed = [each.check for each in verdict.checks if not each.passed]
    assert failed == ["fairness:carrier=UA"]
    assert judge(holdout, replace(spec, max_segment_loss=0.0), EVALUATION, {}, 0).passed


def test_small_segments_are_left_out() -> None:
    labels, good, worse = world(1000)
    carrier = np.where(np.arange(1000) < 100, "UA", "AA")
    spec = GateSpec(max_segment_loss=0.01)
    verdict = judge(Holdout(labels, good, worse, {"carrier": carrier}), spec, EVALUATION, {}, 0)
    named = [each.check for each in verdict.checks if each.check.startswith("fairness")]
    assert named == ["fairness:carrier=AA"]


def test_a_verdict_is_json() -> None:
    labels, good, worse = world(600)
    carrier = np.where(np.arange(600) < 300, "UA", "AA")
    holdout = Holdout(labels, good, worse, {"carrier": carrier})
    spec = GateSpec(max_segment_loss=0.5, bounds=(MetricBound("brier", maximum=1.0),))
    document = judge(holdout, spec, EVALUATION, {"brier": 0.1}, 0).document()
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert len(document["checks"]) == 5
