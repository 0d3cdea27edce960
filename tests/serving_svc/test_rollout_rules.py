"""The state machine of rollouts, as pure values."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service_kit.errors import InvalidArgument
from serving_svc.domain import Action, Decision, Look, Rollout, Strategy, rollouts

NOW = datetime(2013, 4, 1, tzinfo=UTC)
STRATEGY = rollouts.resolved(Strategy())
ROLLOUT = Rollout(
    rollout_id="r",
    endpoint_id="late",
    model_version="models/delay/versions/2",
    champion_version="models/delay/versions/1",
    strategy=STRATEGY,
    created=NOW,
    actor="keys/me",
    base_generation=1,
    table_generation=1,
    stage=0,
    stage_samples=0,
)
looks = st.builds(Look, st.sampled_from(Decision), st.just(("why",)), st.integers(0, 30_000))
standing = st.builds(
    lambda stage, seen, paused: replace(ROLLOUT, stage=stage, stage_samples=seen, paused=paused),
    st.integers(0, 3),
    st.integers(-1, 20_000),
    st.booleans(),
)
ages = st.integers(0, 10 * 86_400).map(lambda seconds: NOW + timedelta(seconds=seconds))


@given(standing, looks, ages)
def test_more_traffic_is_only_given_when_nothing_objects(
    rollout: Rollout, look: Look, now: datetime
) -> None:
    verdict = rollouts.judge(rollout, look, now)
    if verdict.action in (Action.ADVANCE, Action.PROMOTE):
        assert not rollout.paused
        assert look.decision in (Decision.CONTINUE, Decision.SHIP)
        assert look.samples - max(rollout.stage_samples, 0) >= STRATEGY.step_min_samples
        assert now - NOW <= STRATEGY.timeout


@given(standing, looks, ages)
def test_full_traffic_needs_a_proof_at_the_last_stage(
    rollout: Rollout, look: Look, now: datetime
) -> None:
    verdict = rollouts.judge(rollout, look, now)
    if verdict.action is Action.PROMOTE:
        assert (look.decision, rollout.stage) == (Decision.SHIP, 3)
    if verdict.action is Action.ADVANCE:
        assert rollout.stage < 3


@given(standing, st.integers(0, 30_000), ages)
def test_harm_ends_it_at_once_whoever_holds_it(
    rollout: Rollout, samples: int, now: datetime
) -> None:
    verdict = rollouts.judge(rollout, Look(Decision.ROLLBACK, ("worse",), samples), now)
    assert (verdict.action, verdict.reasons) == (Action.ROLL_BACK, ("worse",))


def test_the_stages_of_strategies() -> None:
    names = [stage.name for stage in rollouts.stages(STRATEGY)]
    assert names == ["shadow", "5%", "25%", "50%"]
    direct = rollouts.resolved(Strategy(steps=(12.5, 100.0), skip_shadow=True))
    assert [(s.name, s.weight, s.shadow) for s in rollouts.stages(direct)] == [("12.5%", 12.5, 0.0)]


def test_zero_stands_for_the_default() -> None:
    zeros = Strategy(
        steps=(),
        shadow_percent=0,
        primary_metric="",
        step_min_samples=0,
        max_samples=0,
        alpha=0,
        max_error_rate=0,
        max_latency_ratio=0,
        timeout=timedelta(),
        interval=timedelta(),
    )
    assert rollouts.resolved(zeros) == Strategy()


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"steps": (50.0, 25.0, 100.0)}, "steps"),
        ({"steps": (5.0, 50.0)}, "steps"),
        ({"steps": (float("nan"), 100.0)}, "steps"),
        ({"steps": (0.001, 100.0)}, "steps"),
        ({"steps": (100.0,), "skip_shadow": True}, "steps"),
        ({"alpha": 0.9}, "alpha"),
        ({"alpha": float("nan")}, "alpha"),
        ({"margin": -1.0}, "margin"),
        ({"max_samples": 10}, "max_samples"),
        ({"shadow_percent": 101.0}, "shadow_percent"),
        ({"timeout": timedelta(days=400)}, "timeout"),
    ],
)
def test_what_is_wrong_with_a_strategy_is_named(wrong: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        rollouts.resolved(replace(Strategy(), **wrong))  # type: ignore[arg-type]
    assert caught.value.field == f"rollout.strategy.{field}"
