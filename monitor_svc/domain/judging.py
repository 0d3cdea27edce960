"""From a closed window to findings: every detector on every feature, corrected for their number."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from monitor_svc.domain.comparison import NamedDetector, Score, compare
from monitor_svc.domain.corrections import conformal_quantile, holm
from monitor_svc.domain.profiles import Profile, Reference
from monitor_svc.domain.sketches import Sketch

#: Blocks of a reference from which on they say how much windows differ by themselves.
FEWEST_BLOCKS = 5
#: A feature is judged from this number of rows with a value on.
FEWEST_VALUES = 20

Baselines = Mapping[tuple[str, str], float]


@dataclass(frozen=True, slots=True)
class Finding:
    """What a detector says of a feature in a window.

    Attributes:
        detector: Name of the detector.
        feature: Name of the feature.
        score: In the detector's unit; NaN when it failed.
        p_value: Corrected for the number of tests in the window; None without one.
        threshold: That the score was held against: the detector's own or, when that is greater,
            what the reference's own windows reach.
        severity: Score in units of the detector's own threshold.
        drifted: The verdict after all corrections.
        explanation: In words.
        failed: Whether the detector raised or gave something unusable.
    """

    detector: str
    feature: str
    score: float
    p_value: float | None
    threshold: float
    severity: float
    drifted: bool
    explanation: str
    failed: bool = False


def judge(
    reference: Reference,
    window: Mapping[str, Sketch],
    detectors: Sequence[NamedDetector],
    false_alarm_rate: float,
    baselines: Baselines,
) -> list[Finding]:
    """Hold a window against its reference.

    A feature drifts when the score passes the detector's threshold, passes what the reference's
    own windows reach (`baselines`, see :func:`block_baselines`; this is what keeps weather, which
    differs from week to week anyway, from alarming), and its p-value, corrected by Holm's method
    over all detectors and features, is at most `false_alarm_rate`. Features without values in the
    window are left out.
    """
    found: list[Finding] = []
    for feature, profile in reference.profiles.items():
        sketch = window.get(feature)
        if sketch is None or sketch.count + sketch.missing < FEWEST_VALUES:
            continue
        for named in detectors:
            if named.looks_at(feature, profile):
                baseline = baselines.get((named.name, feature), 0.0)
                found.append(_finding(named, feature, profile, sketch, baseline))
    return _corrected(found, false_alarm_rate)


def block_baselines(
    reference: Reference, detectors: Sequence[NamedDetector], false_alarm_rate: float
) -> Baselines:
    """How far the reference's own windows are from the whole, by detector and feature.

    The conformal quantile of their scores: a further window of the same kind exceeds it with
    probability `false_alarm_rate` (or 1/(blocks + 1), when there are few), whatever depends on
    what within it. Empty when the reference has too few blocks.
    """
    if len(reference.blocks) < FEWEST_BLOCKS:
        return {}
    found: dict[tuple[str, str], float] = {}
    for feature, profile in reference.profiles.items():
        for named in detectors:
            if named.looks_at(feature, profile):
                scores = _block_scores(reference, feature, profile, named)
                if len(scores) >= FEWEST_BLOCKS:
                    quantile = conformal_quantile(np.array(scores), false_alarm_rate)
                    found[named.name, feature] = quantile
    return found


def _block_scores(
    reference: Reference, feature: str, profile: Profile, named: NamedDetector
) -> list[float]:
    scores = []
    for block in reference.blocks:
        if block[feature].count + block[feature].missing >= FEWEST_VALUES:
            score, _ = _scored(named, feature, profile, block[feature])
            if score is not None:
                scores.append(score.score)
    return scores


def _finding(
    named: NamedDetector, feature: str, profile: Profile, sketch: Sketch, baseline: float
) -> Finding:
    score, failure = _scored(named, feature, profile, sketch)
    if score is None:
        return Finding(
            named.name, feature, math.nan, None, math.nan, 0.0, False, failure, failed=True
        )
    threshold = max(score.threshold, baseline)
    explanation = score.explanation
    if baseline > score.threshold:
        explanation += f"; windows of the reference itself reach {baseline:.3g}"
    return Finding(
        named.name, feature, float(score.score), score.p_value, threshold,
        score.score / score.threshold if score.threshold > 0 else 0.0,
        bool(score.drifted) and score.score > threshold, explanation,
    )  # fmt: skip


def _scored(
    named: NamedDetector, feature: str, profile: Profile, sketch: Sketch
) -> tuple[Score | None, str]:
    try:
        score = named.detector.score(compare(feature, profile, sketch))
        numbers = [score.score, score.threshold]
        if score.p_value is not None:
            numbers.append(score.p_value)
    # A plugin may do anything; one that fails must not take the others with it.
    except Exception as error:
        return None, f"the detector failed with {type(error).__name__}"
    if not all(math.isfinite(number) for number in numbers):
        return None, "the detector gave a number that is not finite"
    return score, ""


def _corrected(found: Sequence[Finding], rate: float) -> list[Finding]:
    tested = [i for i, finding in enumerate(found) if finding.p_value is not None]
    adjusted = holm([found[i].p_value or 0.0 for i in tested])
    result = list(found)
    for i, p_value in zip(tested, adjusted.tolist(), strict=True):
        finding = found[i]
        result[i] = replace(finding, p_value=p_value, drifted=finding.drifted and p_value <= rate)
    return result
