"""Metrics of a binary classifier from labels and scores.

All take `labels` (n, 0 or 1) and `scores` (n, probability of 1) and give a float.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
Metric: TypeAlias = Callable[[Floats, Floats], float]

EPSILON = 1e-15


def pr_auc(labels: Floats, scores: Floats) -> float:
    """Average precision: the sum of precision over the gains of recall, ties taken together.

    NaN without a positive label.
    """
    if not labels.any():
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    sorted_scores, hits = scores[order], labels[order]
    ends = np.r_[np.flatnonzero(np.diff(sorted_scores)), len(hits) - 1]
    true_positives = np.cumsum(hits)[ends]
    precision = true_positives / (ends + 1)
    recall = true_positives / true_positives[-1]
    return float(np.sum(np.diff(np.r_[0.0, recall]) * precision))


def roc_auc(labels: Floats, scores: Floats) -> float:
    """Chance that a positive scores above a negative, ties counting half (Mann-Whitney U).

    NaN when there is only one class.
    """
    positives = float(labels.sum())
    negatives = len(labels) - positives
    if positives == 0 or negatives == 0:
        return float("nan")
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    mean_rank = np.cumsum(counts) - (counts - 1) / 2
    rank_sum = float(mean_rank[inverse][labels == 1].sum())
    return (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)


def log_loss(labels: Floats, scores: Floats) -> float:
    """Mean negative log-likelihood in nats; scores are kept 1e-15 away from 0 and 1."""
    clipped = np.clip(scores, EPSILON, 1 - EPSILON)
    return float(-np.mean(labels * np.log(clipped) + (1 - labels) * np.log1p(-clipped)))


def brier(labels: Floats, scores: Floats) -> float:
    """Mean squared error of the probability (Brier, 1950)."""
    return float(np.mean((scores - labels) ** 2))


def calibration_error(labels: Floats, scores: Floats, bins: int = 10) -> float:
    """Expected calibration error over bins of equal width (Naeini et al., AAAI 2015)."""
    at = np.minimum((scores * bins).astype(int), bins - 1)
    counts = np.bincount(at, minlength=bins)
    gaps = np.abs(np.bincount(at, scores, minlength=bins) - np.bincount(at, labels, minlength=bins))
    return float(gaps.sum() / max(counts.sum(), 1))


METRICS: Mapping[str, Metric] = {
    "pr_auc": pr_auc,
    "roc_auc": roc_auc,
    "log_loss": log_loss,
    "brier": brier,
    "calibration_error": calibration_error,
}

LOSSES = frozenset({"log_loss", "brier", "calibration_error"})
"""Metrics of which less is better."""


PRIMARY = ("pr_auc", "roc_auc", "log_loss", "brier")
"""Metrics that may decide: a constant score can be well calibrated."""


def sign(metric: str) -> float:
    """1 for a metric of which more is better, -1 for a loss."""
    return -1.0 if metric in LOSSES else 1.0


def gain(metric: str, challenger: float, champion: float) -> float:
    """How much better the challenger is: positive is better, in the metric's unit."""
    return sign(metric) * (challenger - champion)


def all_metrics(labels: Floats, scores: Floats) -> dict[str, float]:
    """Every metric that is defined for these labels, with `rows` and `base_rate`."""
    values = {name: metric(labels, scores) for name, metric in METRICS.items()}
    known = {name: value for name, value in values.items() if np.isfinite(value)}
    return known | {"rows": float(len(labels)), "base_rate": float(labels.mean())}
