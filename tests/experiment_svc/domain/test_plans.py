"""Plans: what can never be right is refused with the field at fault."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import pytest

from experiment_svc.domain import (
    Arm,
    DecisionRule,
    Design,
    Guardrail,
    MetricSpec,
    State,
    check,
    conclude,
)
from service_kit.errors import FailedPrecondition, InvalidArgument

NOW = datetime(2026, 2, 1, tzinfo=UTC)
ERRORS = MetricSpec("error_rate")


def test_a_sound_plan_is_taken_as_it_is(make_experiment) -> None:
    plan = make_experiment(guardrails=(Guardrail(ERRORS, max_value=0.02, max_ratio=2.0),))
    assert check(plan) is plan


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"arms": (Arm("a"),)}, "arms"),
        ({"arms": (Arm("a"), Arm("b"), Arm("c"))}, "arms"),
        ({"arms": (Arm("a"), Arm("a"))}, "arms.arm"),
        ({"arms": (Arm("a"), Arm(""))}, "arms.arm"),
        ({"arms": (Arm("a"), Arm("b", -1.0))}, "arms.weight"),
        (
            {"arms": (Arm("a"), Arm("b", 0.0)), "design": Design.RANDOMIZED},
            "arms.weight",
        ),
        ({"arms": (Arm("a"), Arm("b", math.nan))}, "arms.weight"),
        ({"primary": MetricSpec("f1")}, "primary.metric"),
        ({"primary": MetricSpec("brier", higher_is_better=True)}, "primary.higher_is_better"),
        ({"primary": MetricSpec("outcome_mean", higher_is_better=True)}, "primary.metric"),
        ({"rule": DecisionRule(alpha=math.nan)}, "rule.alpha"),
        ({"rule": DecisionRule(alpha=0.7)}, "rule.alpha"),
        ({"rule": DecisionRule(margin=-1)}, "rule.margin"),
        ({"rule": DecisionRule(margin=math.inf)}, "rule.margin"),
        ({"rule": DecisionRule(min_samples=5)}, "rule.min_samples"),
        ({"rule": DecisionRule(max_samples=50)}, "rule.max_samples"),
        ({"guardrails": (Guardrail(ERRORS),)}, "guardrails"),
        ({"guardrails": (Guardrail(ERRORS, math.inf),)}, "guardrails"),
        ({"guardrails": (Guardrail(ERRORS, 1), Guardrail(ERRORS, 2))}, "guardrails"),
        ({"guardrails": (Guardrail(MetricSpec("p42"), 1),)}, "guardrails.metric.metric"),
        ({"max_outcome_delay": timedelta()}, "max_outcome_delay"),
        ({"max_outcome_delay": timedelta(days=5_000)}, "max_outcome_delay"),
        ({"hypothesis": "x" * 5_000}, "hypothesis"),
    ],
)
def test_a_bad_plan_names_its_field(make_experiment, change: dict, field: str) -> None:
    with pytest.raises(InvalidArgument) as raised:
        check(make_experiment(**change))
    assert raised.value.field == f"experiment.{field}"


def test_the_outcome_itself_can_be_compared_between_randomized_arms(make_experiment) -> None:
    spec = MetricSpec("outcome_mean", higher_is_better=True)
    assert check(make_experiment(design=Design.RANDOMIZED, primary=spec)).primary == spec


def test_an_experiment_ends_once(make_experiment) -> None:
    ended = conclude(make_experiment(), "shipped", NOW)
    assert (ended.state, ended.concluded, ended.conclusion) == (State.CONCLUDED, NOW, "shipped")
    with pytest.raises(FailedPrecondition, match="EXPERIMENT_CONCLUDED"):
        conclude(ended, "again", NOW)
