"""Quality of predictions once labels are known, as sums that add and subtract."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce

import numpy as np

from monitor_svc.domain.sketches import Floats, Ints

#: Cells of the score histograms, of equal width between 0 and 1.
SCORE_CELLS = 1000
#: Scores are kept this far from 0 and 1 in the log loss.
LEAST_PROBABILITY = 1e-6
_DECILES = 10


@dataclass(frozen=True, slots=True, eq=False)
class QualitySketch:
    """Predictions of one version in one window, and those of them whose label is known.

    Attributes:
        rows: Predictions.
        labelled: Predictions with a label.
        binary: Labelled predictions with a label of 0 or 1 and a score between 0 and 1.
        positives: Score histogram of those with label 1.
        negatives: Score histogram of those with label 0.
        sums: Over the labelled ones: squared error, absolute error; over the binary ones: log
            loss, its square.
        score_sums: Sum of the scores of the binary ones by cell, label ignored, for calibration.
    """

    rows: int
    labelled: int
    binary: int
    positives: Ints
    negatives: Ints
    sums: Floats
    score_sums: Floats

    def __add__(self, other: QualitySketch) -> QualitySketch:
        return self._with(other, 1)

    def __sub__(self, other: QualitySketch) -> QualitySketch:
        return self._with(other, -1)

    def _with(self, other: QualitySketch, sign: int) -> QualitySketch:
        return QualitySketch(
            self.rows + sign * other.rows,
            self.labelled + sign * other.labelled,
            self.binary + sign * other.binary,
            self.positives + sign * other.positives,
            self.negatives + sign * other.negatives,
            self.sums + sign * other.sums,
            self.score_sums + sign * other.score_sums,
        )


def no_quality(rows: int = 0) -> QualitySketch:
    """Predictions without a label."""
    empty = np.zeros(SCORE_CELLS, dtype=np.int64)
    return QualitySketch(
        rows, 0, 0, empty, empty, np.zeros(4), np.zeros(SCORE_CELLS)
    )  # fmt: skip


def labelled_quality(scores: Floats, labels: Floats) -> QualitySketch:
    """Labels that became known of predictions that were counted before; `rows` is 0.

    Args:
        scores: float64, finite.
        labels: float64, finite, as many.
    """
    error = scores - labels
    binary = ((labels == 0) | (labels == 1)) & (scores >= 0) & (scores <= 1)
    p, y = scores[binary], labels[binary] == 1
    cells = np.minimum((p * SCORE_CELLS).astype(np.int64), SCORE_CELLS - 1)
    loss = -np.log(np.clip(np.where(y, p, 1 - p), LEAST_PROBABILITY, 1 - LEAST_PROBABILITY))
    return QualitySketch(
        rows=0,
        labelled=len(scores),
        binary=len(p),
        positives=np.bincount(cells[y], minlength=SCORE_CELLS).astype(np.int64),
        negatives=np.bincount(cells[~y], minlength=SCORE_CELLS).astype(np.int64),
        sums=np.array(
            [(error**2).sum(), np.abs(error).sum(), loss.sum(), (loss**2).sum()], dtype=np.float64
        ),
        score_sums=np.bincount(cells, weights=p, minlength=SCORE_CELLS).astype(np.float64),
    )


def total_quality(sketches: Iterable[QualitySketch]) -> QualitySketch:
    """The sum of some sketches."""
    return reduce(QualitySketch.__add__, sketches, no_quality())


def metrics(sketch: QualitySketch) -> dict[str, float]:
    """Metrics by name; none without labels.

    `coverage` always. Of binary labels: `base_rate`, `brier`, `log_loss`, `calibration_error`
    (expected calibration error over deciles of the score) and, when both labels occur, `pr_auc`
    and `roc_auc`, both from histograms of 1,000 cells. Otherwise `mse` and `mae`.
    """
    found: dict[str, float] = {"coverage": sketch.labelled / max(sketch.rows, 1)}
    if not sketch.labelled:
        return found
    squared, absolute, loss, _ = sketch.sums.tolist()
    if sketch.binary < sketch.labelled:
        return found | {
            "mse": max(squared, 0.0) / sketch.labelled,
            "mae": max(absolute, 0.0) / sketch.labelled,
        }
    positives, negatives = int(sketch.positives.sum()), int(sketch.negatives.sum())
    found |= {
        "base_rate": positives / sketch.binary,
        "brier": max(squared, 0.0) / sketch.binary,
        "log_loss": max(loss, 0.0) / sketch.binary,
        "calibration_error": calibration_error(sketch),
    }
    if positives and negatives:
        found |= {"pr_auc": pr_auc(sketch), "roc_auc": roc_auc(sketch)}
    return found


def pr_auc(sketch: QualitySketch) -> float:
    """Average precision; scores of one cell count as ties.

    Reference: Davis and Goadrich 2006, The relationship between precision-recall and ROC curves.
    """
    hits = np.cumsum(sketch.positives[::-1])
    taken = hits + np.cumsum(sketch.negatives[::-1])
    precision = hits / np.maximum(taken, 1)
    return float((precision * sketch.positives[::-1]).sum() / hits[-1])


def roc_auc(sketch: QualitySketch) -> float:
    """Area under the ROC curve; scores of one cell count as ties (Hanley and McNeil 1982)."""
    below = np.cumsum(sketch.negatives) - sketch.negatives
    wins = (sketch.positives * (below + sketch.negatives / 2)).sum()
    return float(wins / (sketch.positives.sum() * sketch.negatives.sum()))


def calibration_error(sketch: QualitySketch) -> float:
    """Expected calibration error over ten equally wide bins of the score.

    Reference: Naeini, Cooper, Hauskrecht 2015, Obtaining well calibrated probabilities using
    Bayesian binning.
    """
    by_bin = (_DECILES, SCORE_CELLS // _DECILES)
    hits = sketch.positives.reshape(by_bin).sum(axis=1)
    said = sketch.score_sums.reshape(by_bin).sum(axis=1)
    return float(np.abs(hits - said).sum() / max(sketch.binary, 1))


@dataclass(frozen=True, slots=True)
class LossChange:
    """Mean log loss lately against before, with the z-score of the difference."""

    before: float
    lately: float
    z: float
    rows: int


def loss_change(before: QualitySketch, lately: QualitySketch) -> LossChange | None:
    """Whether the log loss has grown (Welch's z); None with too few binary labels to say."""
    if min(before.binary, lately.binary) < 100:
        return None
    first, second = _mean_and_variance(before), _mean_and_variance(lately)
    spread = float(np.sqrt(first[1] / before.binary + second[1] / lately.binary))
    z = (second[0] - first[0]) / spread if spread > 0 else 0.0
    return LossChange(first[0], second[0], z, lately.binary)


def _mean_and_variance(sketch: QualitySketch) -> tuple[float, float]:
    mean = float(sketch.sums[2]) / sketch.binary
    return mean, max(float(sketch.sums[3]) / sketch.binary - mean * mean, 0.0)
