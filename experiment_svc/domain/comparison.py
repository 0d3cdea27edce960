"""Treatment against control by one metric, paired or randomized, valid at every look."""

from __future__ import annotations

import math
from dataclasses import dataclass

from experiment_svc.domain.evidence import Evidence
from experiment_svc.domain.moments import Moments
from experiment_svc.domain.plans import Design, Guardrail, MetricSpec
from experiment_svc.domain.sequences import Sequence


@dataclass(frozen=True, slots=True)
class Comparison:
    """Treatment against control by one metric.

    Attributes:
        metric: Name of the metric.
        control: Mean of the control.
        treatment: Mean of the treatment.
        improvement: Improvement in the metric's unit; positive is better.
        lower: Lower end of the always-valid interval of the improvement.
        upper: Upper end of it.
        p_value: Always-valid p-value of "no difference".
        control_samples: Values of the control.
        treatment_samples: Values of the treatment.
        breached: Whether it is a guardrail whose bound is shown to be broken.
    """

    metric: str
    control: float
    treatment: float
    improvement: float
    lower: float
    upper: float
    p_value: float
    control_samples: int
    treatment_samples: int
    breached: bool = False

    @property
    def smallest(self) -> int:
        """Values in the smaller arm."""
        return min(self.control_samples, self.treatment_samples)


@dataclass(frozen=True, slots=True)
class Pair:
    """The two arms by one metric.

    Attributes:
        control: Values of the control.
        treatment: Values of the treatment.
        difference: Treatment minus control within units; None when units are randomized.
    """

    control: Moments
    treatment: Moments
    difference: Moments | None = None

    @property
    def samples(self) -> int:
        """Units behind the comparison."""
        if self.difference is not None:
            return self.difference.n
        return self.control.n + self.treatment.n

    @property
    def complete(self) -> bool:
        """Whether there are two values on each side, the least that has a variance."""
        return min(self.control.n, self.treatment.n) > 1


@dataclass(frozen=True, slots=True)
class Estimate:
    """A contrast, its standard error and the number of units behind it."""

    value: float
    standard_error: float
    samples: int


def pair(design: Design, evidence: Evidence, metric: str) -> Pair:
    """Take the two arms of a metric out of the evidence."""
    difference = evidence.difference(metric, 1) if design is Design.PAIRED else None
    return Pair(evidence.arm(metric, 0), evidence.arm(metric, 1), difference)


def contrast(arms: Pair, ratio: float = 1.0) -> Estimate:
    """Estimate "treatment minus `ratio` times control".

    With randomized arms the two variances add, neither taken smaller than that of both arms
    together: a small slice of a rare outcome hardly shows its own. With paired arms the
    covariance counts, which the variance of the differences gives: that is why pairs need so few
    units.
    Each variance is taken with one further unit at a contrast of zero, so that values which
    happen to be all alike do not pass for certainty.
    """
    control, treatment, difference = arms.control, arms.treatment, arms.difference
    value = treatment.mean - ratio * control.mean
    v_control = _variance(control, control.mean)
    v_treatment = _variance(treatment, ratio * control.mean)
    if difference is None:
        both = (control + treatment).variance
        v_control, v_treatment = max(v_control, both), max(v_treatment, both)
        squared = v_treatment / treatment.n + ratio**2 * v_control / control.n
    else:
        v_difference = _variance(difference, (ratio - 1) * control.mean)
        variance = (1 - ratio) * v_treatment + ratio * (ratio - 1) * v_control
        squared = max(0.0, variance + ratio * v_difference) / difference.n
    return Estimate(value, math.sqrt(squared), arms.samples)


def compare(arms: Pair, spec: MetricSpec, sequence: Sequence) -> Comparison:
    """Compare the arms by one metric.

    Args:
        arms: Sufficient statistics with two values on each side at least.
        spec: Metric and direction.
        sequence: Boundary of the intervals.

    References:
        Waudby-Smith et al. (2024), Time-uniform central limit theory and asymptotic confidence
        sequences, Annals of Statistics 52(6).

    >>> arms = Pair(Moments(500, 0.2, 5.0), Moments(500, 0.1, 5.0), Moments(500, -0.1, 5.0))
    >>> found = compare(arms, MetricSpec("brier"), Sequence(0.05, 500))
    >>> round(found.improvement, 3), round(found.lower, 3), round(found.upper, 3)
    (0.1, 0.086, 0.114)
    """
    estimate = contrast(arms)
    interval = sequence.interval(estimate.value, estimate.standard_error, estimate.samples)
    ends = sorted((spec.improvement(interval.lower), spec.improvement(interval.upper)))
    return Comparison(
        metric=spec.metric,
        control=arms.control.mean,
        treatment=arms.treatment.mean,
        improvement=spec.improvement(interval.estimate),
        lower=ends[0],
        upper=ends[1],
        p_value=interval.p_value,
        control_samples=arms.control.n,
        treatment_samples=arms.treatment.n,
    )


def breaches(arms: Pair, guardrail: Guardrail, sequence: Sequence) -> bool:
    """Tell whether the treatment is shown to lie beyond a guardrail's bound.

    It is when the always-valid interval of its distance to the bound lies above zero; each
    bound uses one side of the sequence.
    """
    found = []
    if guardrail.max_value is not None:
        found.append(_above(arms.treatment, guardrail.max_value))
    if guardrail.max_ratio is not None:
        found.append(contrast(arms, guardrail.max_ratio))
    return any(
        sequence.interval(one.value, one.standard_error, one.samples).lower > 0 for one in found
    )


def _above(moments: Moments, bound: float) -> Estimate:
    error = math.sqrt(_variance(moments, bound) / moments.n)
    return Estimate(moments.mean - bound, error, moments.n)


def _variance(moments: Moments, further: float) -> float:
    """Variance of one value, with one further value put in."""
    n = moments.n
    return (moments.m2 + (moments.mean - further) ** 2 * n / (n + 1)) / (n - 1)
