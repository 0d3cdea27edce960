"""Metrics on many bootstrap resamples at once.

A resample says how often each row was drawn. Scores are sorted once, and each resample then costs
a few sums over the rows in that order instead of a sort of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from training_svc.domain.metrics import EPSILON, Floats

Counts: TypeAlias = NDArray[np.float64]
Resampled: TypeAlias = Callable[[Counts], Floats]
"""From counts (resamples x rows) to one value a resample."""

BLOCK = 32
"""Resamples that are measured together: they fit into the cache of a core."""


def resampled_gains(
    metric: str, labels: Floats, challenger: Floats, champion: Floats, resamples: int, seed: int
) -> Floats:
    """Draws rows with replacement, the same for both models, and measures both on each draw.

    Returns:
        `resamples` differences challenger - champion of the metric.
    """
    generator = np.random.default_rng(seed)
    ours, theirs = RESAMPLED[metric](labels, challenger), RESAMPLED[metric](labels, champion)
    differences = np.empty(resamples)
    for first in range(0, resamples, BLOCK):
        size = min(BLOCK, resamples - first)
        counts = drawn(generator, size, len(labels))
        differences[first : first + size] = ours(counts) - theirs(counts)
    return differences


def drawn(generator: np.random.Generator, resamples: int, rows: int) -> Counts:
    """How often each row is drawn in each resample of as many rows."""
    picks = generator.integers(0, rows, (resamples, rows))
    counts = np.stack([np.bincount(each, minlength=rows) for each in picks])
    return counts.astype(np.float64)


def _pr_auc(labels: Floats, scores: Floats) -> Resampled:
    order, ends = _ties(-scores)
    positive = labels[order]

    def measure(counts: Counts) -> Floats:
        ordered = counts[:, order]
        taken = np.cumsum(ordered, axis=1)[:, ends]
        hits = np.cumsum(ordered * positive, axis=1)[:, ends]
        precision = hits / np.maximum(taken, 1)
        gained = np.diff(hits, axis=1, prepend=0.0)
        return _ratio(np.sum(gained * precision, axis=1), hits[:, -1])

    return measure


def _roc_auc(labels: Floats, scores: Floats) -> Resampled:
    order, ends = _ties(scores)
    positive = labels[order]

    def measure(counts: Counts) -> Floats:
        ordered = counts[:, order]
        hits = np.cumsum(ordered * positive, axis=1)[:, ends]
        misses = np.cumsum(ordered * (1 - positive), axis=1)[:, ends]
        tied = np.diff(misses, axis=1, prepend=0.0)
        # Negatives below a group of ties count whole, those within it half.
        won = np.diff(hits, axis=1, prepend=0.0) * (misses - tied / 2)
        return _ratio(won.sum(axis=1), hits[:, -1] * misses[:, -1])

    return measure


def _mean_of(losses: Floats) -> Resampled:
    def measure(counts: Counts) -> Floats:
        return np.asarray(counts @ losses / counts.sum(axis=1))

    return measure


def _log_loss(labels: Floats, scores: Floats) -> Resampled:
    clipped = np.clip(scores, EPSILON, 1 - EPSILON)
    return _mean_of(-(labels * np.log(clipped) + (1 - labels) * np.log1p(-clipped)))


def _brier(labels: Floats, scores: Floats) -> Resampled:
    return _mean_of((scores - labels) ** 2)


def _ties(scores: Floats) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Ascending order of the scores, and the last place of each group of equal ones."""
    order = np.argsort(scores, kind="stable")
    ends = np.r_[np.flatnonzero(np.diff(scores[order])), len(scores) - 1]
    return order, ends


def _ratio(part: Floats, whole: Floats) -> Floats:
    return np.divide(part, whole, out=np.full_like(part, np.nan), where=whole > 0)


RESAMPLED: Mapping[str, Callable[[Floats, Floats], Resampled]] = {
    "pr_auc": _pr_auc,
    "roc_auc": _roc_auc,
    "log_loss": _log_loss,
    "brier": _brier,
}
