"""The decision: the rule that was fixed beforehand, applied to what has been seen."""

from __future__ import annotations

from collections.abc import Sequence as ListOf
from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum

from experiment_svc.domain.comparison import Comparison, breaches, compare, pair
from experiment_svc.domain.evidence import Evidence
from experiment_svc.domain.plans import (
    DEFAULT_MIN_SAMPLES,
    Design,
    Experiment,
    Guardrail,
)
from experiment_svc.domain.sequences import Sequence
from experiment_svc.domain.srm import srm_p_value

SRM_ALPHA = 0.01
"""Chance that an experiment without a fault is ever called mismatched."""


class Decision(Enum):
    """What a look at the data says should be done."""

    CONTINUE = "continue"
    SHIP = "ship"
    ROLLBACK = "rollback"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A decision and what it rests on.

    Attributes:
        decision: What should be done.
        reasons: Why, in words, with numbers.
        samples: Units with a value of the primary metric.
        primary: Comparison by the primary metric; None before each side has two values.
        guardrails: Comparisons by the guardrails that have two values on each side.
        srm_p_value: p-value of the sequential test for sample ratio mismatch; 1 when paired.
        newest_us: Newest event time that went in, microseconds since the Unix epoch.
    """

    decision: Decision
    reasons: tuple[str, ...]
    samples: int
    primary: Comparison | None
    guardrails: tuple[Comparison, ...]
    srm_p_value: float
    newest_us: int


@dataclass(frozen=True, slots=True)
class Analysis:
    """A verdict that was put on record."""

    id: str
    created: datetime
    verdict: Verdict


def analyze(experiment: Experiment, evidence: Evidence) -> Verdict:
    """Look at the data; may be done at any time and as often as one likes.

    The error rate of the rule holds over all looks together. Shipping something worse than the
    margin has at most half of alpha; so has rolling back for the primary metric, and so have all
    guardrails together, by Bonferroni's inequality.

    Args:
        experiment: The plan.
        evidence: All that has been seen of it.
    """
    arms = pair(experiment.design, evidence, experiment.primary.metric)
    rule = experiment.rule
    sequence = Sequence(rule.alpha, rule.tuned_for)
    primary = compare(arms, experiment.primary, sequence) if arms.complete else None
    guardrails = _guardrails(experiment, evidence)
    mismatch = 1.0
    if experiment.design is Design.RANDOMIZED:
        mismatch = srm_p_value(evidence.exposed(len(experiment.arms)), experiment.weights)
    decision, reasons = _decide(experiment, primary, guardrails, mismatch, evidence)
    samples = arms.samples
    return Verdict(decision, reasons, samples, primary, guardrails, mismatch, evidence.newest_us)


def first_look(experiment: Experiment) -> int:
    """Values that a guardrail needs before it may roll back.

    It does not wait for a large sample of outcomes: a failing arm may never get any.
    """
    return min(experiment.rule.min_samples, DEFAULT_MIN_SAMPLES)


def _guardrails(experiment: Experiment, evidence: Evidence) -> tuple[Comparison, ...]:
    bounds = sum(
        (guardrail.max_value is not None) + (guardrail.max_ratio is not None)
        for guardrail in experiment.guardrails
    )
    least = first_look(experiment)
    sequence = Sequence(experiment.rule.alpha / max(1, bounds), 5 * least)
    found = []
    for guardrail in experiment.guardrails:
        arms = pair(experiment.design, evidence, guardrail.metric.metric)
        if not arms.complete:
            continue
        comparison = compare(arms, guardrail.metric, sequence)
        enough = comparison.smallest >= least
        breached = enough and breaches(arms, guardrail, sequence)
        found.append(replace(comparison, breached=breached))
    return tuple(found)


def _decide(
    experiment: Experiment,
    primary: Comparison | None,
    guardrails: ListOf[Comparison],
    mismatch: float,
    evidence: Evidence,
) -> tuple[Decision, tuple[str, ...]]:
    breached = [found for found in guardrails if found.breached]
    if breached:
        bounds = {rail.metric.metric: rail for rail in experiment.guardrails}
        return Decision.ROLLBACK, tuple(
            _breach(experiment, found, bounds[found.metric]) for found in breached
        )
    if mismatch < SRM_ALPHA:
        return Decision.INCONCLUSIVE, (_mismatch(experiment, evidence, mismatch),)
    decision, reason = _by_primary(experiment, primary, evidence)
    unusable = _unusable(experiment, evidence)
    return decision, (reason, *unusable)


def _by_primary(
    experiment: Experiment, primary: Comparison | None, evidence: Evidence
) -> tuple[Decision, str]:
    rule, metric = experiment.rule, experiment.primary.metric
    smallest = primary.smallest if primary else 0
    whole = rule.max_samples is not None and _size(experiment, evidence) >= rule.max_samples
    if primary is None or smallest < rule.min_samples:
        have = f"{metric}: {smallest:,} of the {rule.min_samples:,} values needed"
        where = "" if experiment.design is Design.PAIRED else " in the smaller arm"
        if whole:
            return Decision.INCONCLUSIVE, f"{have}{where} at the largest sample"
        return Decision.CONTINUE, f"{have}{where} before anything is decided"
    facts = _facts(experiment, primary)
    if primary.lower > -rule.margin:
        better = "not worse by more than the margin" if rule.margin else "an improvement"
        return Decision.SHIP, f"{facts}: {better}"
    if primary.upper < -rule.margin:
        return Decision.ROLLBACK, f"{facts}: worse{' by more than the margin' * (rule.margin > 0)}"
    if whole:
        return Decision.INCONCLUSIVE, f"{facts}: nothing is shown at the largest sample"
    return Decision.CONTINUE, f"{facts}: nothing is shown yet"


def _size(experiment: Experiment, evidence: Evidence) -> int:
    """Units so far; also those count that gave no usable value, or they would never end it."""
    samples = pair(experiment.design, evidence, experiment.primary.metric).samples
    return max(samples, evidence.outcomes)


def _facts(experiment: Experiment, found: Comparison) -> str:
    control, treatment = (arm.name for arm in experiment.arms)
    level = f"{100 * (1 - experiment.rule.alpha):g} %"
    margin = f", margin {experiment.rule.margin:g}" if experiment.rule.margin else ""
    units = f"{found.treatment_samples:,} units"
    if experiment.design is Design.RANDOMIZED:
        units = f"{found.control_samples:,} and {units}"
    return (
        f"{found.metric}: {control} {found.control:.4g}, {treatment} {found.treatment:.4g} over "
        f"{units}; improvement {found.improvement:.3g}, always-valid {level} interval "
        f"{found.lower:.3g} to {found.upper:.3g}{margin}"
    )


def _breach(experiment: Experiment, found: Comparison, rail: Guardrail) -> str:
    control, treatment = (arm.name for arm in experiment.arms)
    limits = []
    if rail.max_value is not None:
        limits.append(f"{rail.max_value:g}")
    if rail.max_ratio is not None:
        limits.append(f"{rail.max_ratio:g} times the control")
    return (
        f"guardrail {found.metric} is breached: {control} {found.control:.4g}, {treatment} "
        f"{found.treatment:.4g} over {found.treatment_samples:,} units, at most "
        f"{' and '.join(limits)} is allowed"
    )


def _mismatch(experiment: Experiment, evidence: Evidence, p_value: float) -> str:
    counts = evidence.exposed(len(experiment.arms))
    total = sum(experiment.weights)
    shares = ", ".join(
        f"{arm.name} {count:,} of an intended {arm.weight / total:.1%}"
        for arm, count in zip(experiment.arms, counts, strict=True)
    )
    return (
        f"the arms do not hold their shares of the units ({shares}; p = {p_value:.2g}), so that "
        "no comparison of them can be trusted"
    )


def _unusable(experiment: Experiment, evidence: Evidence) -> tuple[str, ...]:
    arms = pair(experiment.design, evidence, experiment.primary.metric)
    lost = evidence.outcomes - arms.samples
    if lost <= 0:
        return ()
    of_all = f"{lost:,} of {evidence.outcomes:,} units with an outcome"
    return (f"{of_all} do not count: an arm gave no usable score",)
