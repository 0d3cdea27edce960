"""Decisions: the rule applied, its reasons in words, and its error rate under peeking."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from experiment_svc.domain import (
    Arm,
    Decision,
    DecisionRule,
    Design,
    Evidence,
    Guardrail,
    Kind,
    MetricSpec,
    Moments,
    Series,
    Tally,
    analyze,
    gather,
    observed,
)

DIFFERENCE = Kind.DIFFERENCE.value


def paired(change: float, n: int, metric: str = "brier", spread: float = 0.1) -> Evidence:
    """Pairs whose treatment differs by `change` on average."""
    moments = {
        Series(metric, 0): Moments(n, 0.2, 0.04 * n),
        Series(metric, 1): Moments(n, 0.2 + change, 0.04 * n),
        Series(metric, 1, DIFFERENCE): Moments(n, change, spread**2 * (n - 1)),
    }
    return Evidence(moments, {0: Tally(n, n)}, 1)


def counted(*exposures: int) -> Evidence:
    return Evidence({}, {arm: Tally(n, 0) for arm, n in enumerate(exposures)})


@pytest.mark.parametrize(
    ("change", "margin", "decision"),
    [
        (-0.02, 0.0, Decision.SHIP),
        (0.0, 0.0, Decision.CONTINUE),
        (0.02, 0.0, Decision.ROLLBACK),
        (0.0, 0.02, Decision.SHIP),
        (0.02, 0.02, Decision.CONTINUE),
        (0.04, 0.02, Decision.ROLLBACK),
    ],
)
def test_the_interval_against_the_margin(
    make_experiment, change: float, margin: float, decision: Decision
) -> None:
    verdict = analyze(make_experiment(rule=DecisionRule(margin=margin)), paired(change, 1_000))
    assert verdict.decision is decision
    assert verdict.samples == 1_000
    assert "champion 0.2" in verdict.reasons[0]
    assert "1,000 units" in verdict.reasons[0]


def test_nothing_is_decided_before_the_least_sample(make_experiment) -> None:
    verdict = analyze(make_experiment(), paired(0.5, 99))
    assert verdict.decision is Decision.CONTINUE
    assert verdict.reasons == ("brier: 99 of the 100 values needed before anything is decided",)
    empty = analyze(make_experiment(), Evidence())
    assert (empty.decision, empty.primary, empty.samples) == (Decision.CONTINUE, None, 0)


def test_the_largest_sample_ends_it(make_experiment) -> None:
    plan = make_experiment(rule=DecisionRule(max_samples=1_000))
    assert analyze(plan, paired(0.0, 999)).decision is Decision.CONTINUE
    assert analyze(plan, paired(0.0, 1_000)).decision is Decision.INCONCLUSIVE
    assert analyze(plan, paired(-0.02, 1_000)).decision is Decision.SHIP
    mute = Evidence({}, {0: Tally(1_000, 1_000)})
    assert analyze(plan, mute).decision is Decision.INCONCLUSIVE


def test_units_without_a_usable_score_are_told(make_experiment) -> None:
    more = Evidence({}, {0: Tally(7, 7)})
    verdict = analyze(make_experiment(), paired(-0.02, 1_000) + more)
    assert verdict.decision is Decision.SHIP
    assert verdict.reasons[1].startswith("7 of 1,007 units with an outcome do not count")


def test_a_breached_guardrail_outweighs_a_better_metric(make_experiment) -> None:
    plan = make_experiment(guardrails=(Guardrail(MetricSpec("error_rate"), max_value=0.05),))
    failing = paired(0.3, 200, "error_rate")
    verdict = analyze(plan, replace(failing, tallies={}) + paired(-0.02, 1_000))
    assert verdict.decision is Decision.ROLLBACK
    assert "guardrail error_rate is breached" in verdict.reasons[0]
    assert verdict.guardrails[0].breached
    assert analyze(plan, failing).decision is Decision.ROLLBACK, "it waits for no outcome"
    few = paired(0.3, 99, "error_rate")
    assert analyze(plan, few).decision is Decision.CONTINUE


def test_a_sample_ratio_mismatch_ends_the_comparison(make_experiment) -> None:
    plan = make_experiment(design=Design.RANDOMIZED, arms=(Arm("a", 95), Arm("b", 5)))
    assert analyze(plan, counted(9_500, 500)).srm_p_value == 1
    verdict = analyze(plan, counted(9_500, 250))
    assert verdict.decision is Decision.INCONCLUSIVE
    assert "b 250 of an intended 5.0%" in verdict.reasons[0]
    same = analyze(replace(plan, design=Design.PAIRED), counted(9_500, 0))
    assert same.srm_p_value == 1


def test_each_randomized_arm_needs_the_least_sample(make_experiment) -> None:
    plan = make_experiment(design=Design.RANDOMIZED, arms=(Arm("a", 95), Arm("b", 5)))
    moments = {
        Series("brier", 0): Moments(5_000, 0.2, 0.04 * 5_000),
        Series("brier", 1): Moments(90, 0.9, 0.04 * 90),
    }
    small = Evidence(moments, {0: Tally(1_900, 1_900), 1: Tally(100, 90)})
    assert "90 of the 100 values needed in the smaller arm" in analyze(plan, small).reasons[0]
    moments[Series("brier", 1)] = Moments(110, 0.9, 0.04 * 110)
    assert analyze(plan, replace(small, moments=moments)).decision is Decision.ROLLBACK


@pytest.mark.parametrize("design", list(Design))
def test_equal_models_are_rarely_told_apart(make_experiment, make_rows, design: Design) -> None:
    """An A/A run judged after every 100 outcomes: wrong in 5 % of the runs at most."""
    rng = np.random.default_rng(13)
    plan = make_experiment(design=design)
    wrong = 0
    runs, batches = 200, 20
    for _ in range(runs):
        risk = rng.beta(1, 3, (batches, 100))
        noise = rng.normal(0, 0.1, (batches, 100, 2))
        scores = np.clip(risk[:, :, None] + noise, 0, 1)
        outcomes = (rng.random((batches, 100)) < risk).astype(float)
        seen = Evidence()
        for batch in range(batches):
            rows = make_rows(100, scores=scores[batch], assigned=rng.integers(0, 2, 100))
            new = observed(plan, rows.assigned, rows.scores, rows.event_times_us, outcomes[batch])
            seen = gather([seen, *new.values()])
            if analyze(plan, seen).decision is not Decision.CONTINUE:
                wrong += 1
                break
    # Three standard errors of a simulated share of 5 %.
    assert wrong / runs <= 0.05 + 0.046


def test_a_broken_challenger_is_found_within_hundreds_of_pairs(make_experiment) -> None:
    rng = np.random.default_rng(17)
    needed = []
    for _ in range(20):
        risk = rng.beta(1, 3, 2_000)
        outcomes = (rng.random(2_000) < risk).astype(float)
        losses = (np.column_stack([risk, rng.permutation(risk)]) - outcomes[:, None]) ** 2
        for n in range(100, 2_001, 50):
            difference = losses[:n, 1] - losses[:n, 0]
            seen = Evidence(
                {
                    Series("brier", 0): Moments.of(losses[:n, 0]),
                    Series("brier", 1): Moments.of(losses[:n, 1]),
                    Series("brier", 1, DIFFERENCE): Moments.of(difference),
                }
            )
            if analyze(make_experiment(), seen).decision is Decision.ROLLBACK:
                needed.append(n)
                break
    assert len(needed) == 20
    assert np.median(needed) <= 500
