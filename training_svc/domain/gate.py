"""The gate: is the challenger good enough to be rolled out?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training_svc.domain.metrics import METRICS, Floats, gain, sign
from training_svc.domain.pipelines import EvaluationSpec, GateSpec
from training_svc.domain.resampling import resampled_gains

MIN_SEGMENT_ROWS = 200
MIN_HOLDOUT_ROWS = 200


@dataclass(frozen=True, slots=True)
class Holdout:
    """Scores of both models on the same rows.

    Attributes:
        labels: n labels, 0 or 1.
        challenger: n scores of the challenger.
        champion: n scores of the champion; None when there is none.
        segments: For each segment column the n values of the rows.
    """

    labels: Floats
    challenger: Floats
    champion: Floats | None
    segments: Mapping[str, NDArray[np.str_]]


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its confidence interval."""

    value: float
    lower: float
    upper: float


@dataclass(frozen=True, slots=True)
class Check:
    """One check of the gate."""

    check: str
    passed: bool
    value: float
    lower: float
    upper: float
    threshold: float
    detail: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the gate says: every check, and the reasons in words."""

    passed: bool
    checks: tuple[Check, ...]
    reasons: tuple[str, ...]

    def document(self) -> dict[str, Any]:
        """The verdict as a JSON document."""
        return {
            "passed": self.passed,
            "checks": [asdict(each) for each in self.checks],
            "reasons": list(self.reasons),
        }


def paired_bootstrap(
    metric: str,
    labels: Floats,
    challenger: Floats,
    champion: Floats,
    *,
    resamples: int,
    confidence: float,
    seed: int,
) -> Interval:
    """Percentile interval of the challenger's gain over the champion.

    The same rows are drawn for both models, so that what is hard about a row cancels out
    (Efron & Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13).

    Args:
        metric: Name of a metric that may decide.
        labels: n labels, 0 or 1.
        challenger: n scores.
        champion: n scores of the same rows.
        resamples: Number of bootstrap resamples.
        confidence: Coverage of the interval, for example 0.95.
        seed: Seed of the draws.

    Returns:
        The gain on the rows themselves and its interval; positive is better.
    """
    measure = METRICS[metric]
    differences = resampled_gains(metric, labels, challenger, champion, resamples, seed)
    tail = 100 * (1 - confidence) / 2
    lower, upper = np.nanpercentile(sign(metric) * differences, [tail, 100 - tail])
    value = gain(metric, measure(labels, challenger), measure(labels, champion))
    return Interval(value, float(lower), float(upper))


def judge(
    holdout: Holdout,
    spec: GateSpec,
    evaluation: EvaluationSpec,
    measured: Mapping[str, float],
    seed: int,
) -> Verdict:
    """Holds the challenger against the champion and the bounds.

    Args:
        holdout: Labels and scores.
        spec: What is asked for.
        evaluation: Primary metric, segments and resamples.
        measured: Metrics of the challenger that bounds may name, with `model_bytes` and
            `row_latency_us`.
        seed: Seed of the bootstrap.
    """
    checks = [_enough_rows(holdout), *_bounds(spec, measured)]
    if holdout.champion is not None and checks[0].passed:
        checks.append(_gain(holdout, holdout.champion, spec, evaluation, seed))
        checks += _segments(holdout, holdout.champion, spec, evaluation)
    failed = [each for each in checks if not each.passed]
    if failed:
        return Verdict(False, tuple(checks), tuple(each.detail for each in failed))
    said = "no champion to beat: the first version" if holdout.champion is None else ""
    reasons = [said] if said else [each.detail for each in checks if each.check.endswith("_gain")]
    return Verdict(True, tuple(checks), tuple(reasons))


def _enough_rows(holdout: Holdout) -> Check:
    rows = len(holdout.labels)
    return Check(
        check="holdout_rows",
        passed=bool(rows >= MIN_HOLDOUT_ROWS and 0 < holdout.labels.sum() < rows),
        value=rows,
        lower=rows,
        upper=rows,
        threshold=MIN_HOLDOUT_ROWS,
        detail=f"{rows} rows are held out, {int(holdout.labels.sum())} of them positive "
        f"(at least {MIN_HOLDOUT_ROWS} rows of both classes are needed)",
    )


def _gain(
    holdout: Holdout, champion: Floats, spec: GateSpec, evaluation: EvaluationSpec, seed: int
) -> Check:
    metric = evaluation.primary_metric
    interval = paired_bootstrap(
        metric,
        holdout.labels,
        holdout.challenger,
        champion,
        resamples=evaluation.resamples,
        confidence=spec.confidence,
        seed=seed,
    )
    passed = interval.lower > spec.min_gain
    return Check(
        check=f"{metric}_gain",
        passed=bool(passed),
        value=interval.value,
        lower=interval.lower,
        upper=interval.upper,
        threshold=spec.min_gain,
        detail=f"{metric} gains {interval.value:+.4f} over the champion, "
        f"{spec.confidence:.0%} interval [{interval.lower:+.4f}, {interval.upper:+.4f}], "
        f"{'above' if passed else 'not above'} {spec.min_gain:g}",
    )


def _segments(
    holdout: Holdout, champion: Floats, spec: GateSpec, evaluation: EvaluationSpec
) -> list[Check]:
    """No group of users may pay for the gain of the others."""
    if spec.max_segment_loss <= 0:
        return []
    metric, measure = evaluation.primary_metric, METRICS[evaluation.primary_metric]
    checks = []
    for column, values in holdout.segments.items():
        for segment in np.unique(values):
            rows = values == segment
            labels = holdout.labels[rows]
            if rows.sum() < MIN_SEGMENT_ROWS or not 0 < labels.sum() < len(labels):
                continue
            value = gain(
                metric, measure(labels, holdout.challenger[rows]), measure(labels, champion[rows])
            )
            checks.append(
                Check(
                    check=f"fairness:{column}={segment}",
                    passed=bool(value >= -spec.max_segment_loss),
                    value=value,
                    lower=value,
                    upper=value,
                    threshold=-spec.max_segment_loss,
                    detail=f"{metric} changes by {value:+.4f} where {column} is {segment} "
                    f"({int(rows.sum())} rows, at most {spec.max_segment_loss:g} may be lost)",
                )
            )
    return checks


def _bounds(spec: GateSpec, measured: Mapping[str, float]) -> list[Check]:
    checks = []
    for bound in spec.bounds:
        value = measured.get(bound.metric, float("nan"))
        low = bound.minimum if bound.minimum is not None else -np.inf
        high = bound.maximum if bound.maximum is not None else np.inf
        threshold = bound.minimum if bound.minimum is not None else bound.maximum
        checks.append(
            Check(
                check=f"bound:{bound.metric}",
                passed=bool(low <= value <= high),
                value=value if np.isfinite(value) else 0.0,
                lower=value if np.isfinite(value) else 0.0,
                upper=value if np.isfinite(value) else 0.0,
                threshold=0.0 if threshold is None else threshold,
                detail=f"{bound.metric} is {value:.4g}, allowed from {low:g} to {high:g}",
            )
        )
    return checks
