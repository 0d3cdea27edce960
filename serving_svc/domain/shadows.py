"""What shadows scored, held against what was answered: agreement, differences, correlations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float64]

DEFAULT_THRESHOLD = 0.5
DEFAULT_TOLERANCE = 1e-6
#: Half the width of a 95 % interval in standard errors.
_NORMAL = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True, slots=True)
class Side:
    """A variant and its version, `models/{model}/versions/{version}`."""

    variant: str
    model_version: str


@dataclass(frozen=True, slots=True)
class Pairs:
    """What one version answered and another one, its shadow, scored of the same rows.

    Attributes:
        answers: Answered scores, finite, one a row.
        scores: The shadow's, finite, one a row.
        answer_us: Microseconds that the replica took for the answer, one a row; NaN where unknown.
        score_us: Microseconds that the shadow's took.
        failures: Rows that the shadow was to score and did not, by reason.
    """

    shadow: Side
    answered: Side
    answers: Numbers
    scores: Numbers
    answer_us: Numbers
    score_us: Numbers
    failures: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Latency:
    """How long replicas took in microseconds, over `rows` rows."""

    rows: int
    mean: float
    p50: float
    p95: float
    p99: float


@dataclass(frozen=True, slots=True)
class Agreement:
    """How alike two versions score.

    Attributes:
        rows: Rows that both have scored, at least one.
        classes: Share of the rows whose scores lie on the same side of the threshold.
        exact: Share of the rows whose scores differ by the tolerance at most.
        difference: Mean of the shadow's score less the answer.
        interval: 95 % confidence interval of that mean; nothing of fewer than two rows.
        absolute: Mean absolute difference.
        rmse: Root of the mean squared difference.
        pearson: Correlation of the scores; nothing where one of them does not vary.
        spearman: Correlation of their ranks.
    """

    rows: int
    classes: float
    exact: float
    difference: float
    interval: tuple[float, float] | None
    absolute: float
    rmse: float
    pearson: float | None
    spearman: float | None


@dataclass(frozen=True, slots=True)
class ShadowComparison:
    """A shadow held against who answered; without an agreement where no row has both scores."""

    shadow: Side
    answered: Side
    agreement: Agreement | None
    failures: Mapping[str, int]
    latency: Latency | None
    answered_latency: Latency | None


def compared(pairs: Pairs, threshold: float, tolerance: float) -> ShadowComparison:
    """Compare a shadow with who answered.

    Args:
        threshold: Scores from it on are of the one class, lower ones of the other.
        tolerance: Greatest absolute difference of scores that count as equal.
    """
    return ShadowComparison(
        pairs.shadow,
        pairs.answered,
        agreement(pairs.answers, pairs.scores, threshold, tolerance),
        dict(pairs.failures),
        latency(pairs.score_us),
        latency(pairs.answer_us),
    )


def agreement(
    answers: Numbers, scores: Numbers, threshold: float, tolerance: float
) -> Agreement | None:
    """How alike two versions score the same rows; nothing without rows."""
    rows = len(answers)
    if not rows:
        return None
    differences = scores - answers
    absolute = np.abs(differences)
    mean = float(differences.mean())
    return Agreement(
        rows=rows,
        classes=float(((answers >= threshold) == (scores >= threshold)).mean()),
        exact=float((absolute <= tolerance).mean()),
        difference=mean,
        interval=_interval(mean, differences),
        absolute=float(absolute.mean()),
        rmse=math.sqrt(float((differences**2).mean())),
        pearson=correlation(answers, scores),
        spearman=correlation(ranks(answers), ranks(scores)),
    )


def correlation(one: Numbers, other: Numbers) -> float | None:
    """Pearson's correlation; nothing where one of the two does not vary.

    >>> correlation(np.array([1.0, 2.0, 3.0]), np.array([2.0, 4.0, 6.0]))
    1.0
    """
    if len(one) < 2 or np.ptp(one) == 0 or np.ptp(other) == 0:
        return None  # the mean of equal numbers may miss them by a rounding
    left, right = _centred(one), _centred(other)
    spread = math.sqrt(float(left @ left) * float(right @ right))
    return max(-1.0, min(1.0, float(left @ right) / spread)) if spread else None


def ranks(values: Numbers) -> Numbers:
    """Ranks from 1 on, equal values with their mean rank.

    >>> ranks(np.array([0.3, 0.1, 0.3, 0.2])).tolist()
    [3.5, 1.0, 3.5, 2.0]
    """
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    found: Numbers = ((last - counts + 1 + last) / 2)[places]
    return found


def latency(microseconds: Numbers) -> Latency | None:
    """How long replicas took; nothing where no time is known."""
    known = microseconds[np.isfinite(microseconds)]
    if not len(known):
        return None
    p50, p95, p99 = (float(each) for each in np.quantile(known, (0.5, 0.95, 0.99)))
    return Latency(len(known), float(known.mean()), p50, p95, p99)


def ordered(found: Sequence[ShadowComparison]) -> list[ShadowComparison]:
    """Those of most rows first."""
    return sorted(
        found,
        key=lambda each: (
            -(each.agreement.rows if each.agreement else 0),
            each.shadow.variant,
            each.answered.variant,
            each.shadow.model_version,
            each.answered.model_version,
        ),
    )


def _centred(values: Numbers) -> Numbers:
    # To a scale of their own, so that no product leaves the range of floats.
    centred: Numbers = values - values.mean()
    most = float(np.abs(centred).max())
    return centred / most if most else centred


def _interval(mean: float, differences: Numbers) -> tuple[float, float] | None:
    rows = len(differences)
    if rows < 2:
        return None
    half = _NORMAL * float(differences.std(ddof=1)) / math.sqrt(rows)
    return mean - half, mean + half
