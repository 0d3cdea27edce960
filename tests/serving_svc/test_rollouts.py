"""Rollouts from start to end, with a judge that says what the test wants."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import timedelta

import pytest

from service_kit.errors import FailedPrecondition
from service_kit.paging import Page
from serving_svc.domain import Decision, Look, RolloutState, Variant
from tests.serving_svc.world import QUICK, V1, V2, V3, Killed, World, key

ME = ("keys/me", "by hand")


@pytest.fixture
def ready(world: World) -> World:
    """A world whose champion is version 1."""
    world.create()
    world.deploy(V1)
    return world


def ids(world: World) -> tuple[str, str]:
    return "late", world.rollout().rollout_id


def test_a_better_challenger_is_shadowed_ramped_and_promoted(ready: World) -> None:
    ready.begin()
    assert ready.engine.run() == {"state": "PROMOTED"}
    tables, _ = ready.endpoints.list_tables("late", Page(20))
    path = [(t.variant("v2").weight, t.variant("v2").shadow) for t in reversed(tables[:-1])]
    assert path == [(0, 100), (5, 0), (25, 0), (50, 0), (100, 0)]
    assert all(table.salt == tables[0].salt for table in tables)
    assert [bool(table.experiment) for table in reversed(tables)] == [
        *(False, True, True, True, True, False)
    ]
    assert ready.registry.aliases == {"champion": V2}
    assert ready.registry.stages == {V1: "ARCHIVED", V2: "PRODUCTION"}
    assert ready.judge.created == {ready.rollout().experiment: True}
    assert "PROMOTED" in ready.judge.concluded[ready.rollout().experiment]
    assert ready.loaded() == {V1, V2}
    decisions = [(event.step, event.decision) for event in ready.rollout().events]
    assert decisions == [
        ("loading", "started"),
        *((step, "advanced") for step in ("shadow", "5%", "25%", "50%")),
        ("50%", "promoted"),
    ]
    assert ready.changes()[-1] == "promoted"


def test_a_worse_challenger_is_rolled_back_in_one_push(ready: World) -> None:
    worse = Look(Decision.ROLLBACK, ("brier is worse by 0.2",), 230)
    ready.judge.say = lambda n: worse if n > 3 else Look(Decision.CONTINUE, (), n * 10)
    ready.begin()
    ready.engine.run()
    rollout = ready.rollout()
    assert rollout.state is RolloutState.ROLLED_BACK
    assert rollout.events[-1].reasons == ("brier is worse by 0.2",)
    assert rollout.events[-1].samples == 230
    assert ready.shares() == {"v1": 100.0}
    assert ready.registry.aliases == {"champion": V1}
    assert ready.registry.stages[V2] == "ARCHIVED"
    assert ready.loaded() == {V1}
    ready.begin(V3)


def test_without_a_proof_there_is_no_full_traffic(ready: World) -> None:
    def say(n: int) -> Look:
        return Look(Decision.CONTINUE if n < 30 else Decision.INCONCLUSIVE, ("flat",), n * 10)

    ready.judge.say = say
    ready.begin()
    ready.engine.run()
    rollout = ready.rollout()
    assert rollout.state is RolloutState.ROLLED_BACK
    assert "undecided after 300" in rollout.reason
    tables, _ = ready.endpoints.list_tables("late", Page(20))
    assert max(v.weight for t in tables for v in t.variants if v.name == "v2") == 50


def test_a_step_waits_for_its_samples(ready: World) -> None:
    ready.judge.say = lambda n: Look(Decision.SHIP, (), n)
    ready.begin(strategy=replace(QUICK, step_min_samples=3, skip_shadow=True, steps=(50.0, 100.0)))
    ready.engine.run()
    # The first look says where the step begins; three more samples, then the promotion.
    assert ready.judge.looks == 4


def test_a_judge_that_is_away_only_delays(ready: World) -> None:
    ready.judge.say = lambda n: None if n % 2 else Look(Decision.SHIP, (), n * 10)
    ready.begin()
    assert ready.engine.run() == {"state": "PROMOTED"}


def test_a_rollout_that_takes_too_long_is_rolled_back(ready: World) -> None:
    def say(n: int) -> Look:
        ready.clock.advance(timedelta(hours=1))
        return Look(Decision.CONTINUE, (), 0)

    ready.judge.say = say
    ready.begin(strategy=replace(QUICK, timeout=timedelta(hours=2)))
    ready.engine.run()
    assert ready.rollout().state is RolloutState.ROLLED_BACK
    assert "longer than allowed" in ready.rollout().reason


def test_a_person_holds_it_and_lets_it_go_on(ready: World) -> None:
    held: list[int] = []

    def say(n: int) -> Look:
        if n == 2:
            ready.rollouts.pause_rollout(ids(ready), "lunch", "keys/me", key())
        if ready.rollout().paused:
            held.append(ready.rollout().stage)
            assert ready.rollout().shown_state is RolloutState.PAUSED
        if n == 6:
            ready.rollouts.resume_rollout(ids(ready), "keys/me", key())
        return Look(Decision.SHIP, (), n * 10)

    ready.judge.say = say
    ready.begin()
    assert ready.engine.run() == {"state": "PROMOTED"}
    assert len(set(held)) == 1
    assert len(held) >= 4


def test_a_rollout_held_before_its_first_step_waits(ready: World) -> None:
    ready.begin()
    ready.rollouts.pause_rollout(ids(ready), "", "keys/me", key())
    timer = threading.Timer(
        0.3, lambda: ready.rollouts.resume_rollout(ids(ready), "keys/me", key())
    )
    timer.start()
    assert ready.engine.run() == {"state": "PROMOTED"}
    decisions = [event.decision for event in ready.rollout().events]
    assert decisions[:4] == ["started", "paused", "resumed", "advanced"]


def test_the_judge_takes_traffic_away_from_a_held_rollout_too(ready: World) -> None:
    def say(n: int) -> Look:
        if n == 2:
            ready.rollouts.pause_rollout(ids(ready), "", "keys/me", key())
        return Look(Decision.CONTINUE if n < 4 else Decision.ROLLBACK, (), 0)

    ready.judge.say = say
    ready.begin()
    assert ready.engine.run() == {"state": "ROLLED_BACK"}


def test_a_person_aborts_it(ready: World) -> None:
    def say(n: int) -> Look:
        if n == 3:
            ready.rollouts.abort_rollout(ids(ready), "no more", "keys/me", key())
            assert ready.shares() == {"v1": 100.0}
        return Look(Decision.SHIP, (), n * 10)

    ready.judge.say = say
    ready.begin()
    assert ready.engine.run() == {"state": "ABORTED"}
    assert ready.rollout().reason == "no more"
    assert ready.registry.aliases == {"champion": V1}
    assert ready.registry.stages[V2] == "NONE"
    with pytest.raises(FailedPrecondition, match="ROLLOUT_ENDED"):
        ready.rollouts.abort_rollout(ids(ready), "", "keys/me", key())


def test_what_a_person_does_to_the_traffic_stands(ready: World) -> None:
    def say(n: int) -> Look:
        if n == 5:
            mine = [Variant("", V1, 90.0), Variant("", V2, 10.0)]
            ready.endpoints.update_traffic("late", ready.table().generation, mine, {}, ME, key())
        return Look(Decision.SHIP, (), n * 10)

    ready.judge.say = say
    ready.begin()
    assert ready.engine.run() == {"state": "ABORTED"}
    assert "changed by keys/me" in ready.rollout().reason
    assert ready.shares() == {"v1": 90.0, "v2": 10.0}
    assert ready.loaded() == {V1, V2}


def test_a_persons_rollback_ends_it(ready: World) -> None:
    def say(n: int) -> Look:
        if n == 4:
            ready.endpoints.rollback_endpoint("late", ME, key())
        return Look(Decision.SHIP, (), n * 10)

    ready.judge.say = say
    ready.begin()
    assert ready.engine.run() == {"state": "ABORTED"}
    assert ready.shares() == {"v1": 100.0}


def test_a_challenger_that_cannot_load_fails_and_changes_nothing(ready: World) -> None:
    ready.control.broken.add(V2)
    ready.begin()
    assert ready.engine.run() == {"state": "FAILED"}
    assert "no such runtime" in ready.rollout().reason
    assert (ready.shares(), ready.table().generation) == ({"v1": 100.0}, 1)


def test_a_challenger_that_nobody_approved_is_not_promoted(ready: World) -> None:
    ready.registry.refuses["PRODUCTION"] = FailedPrecondition("APPROVAL_MISSING", "approve it")
    ready.begin()
    assert ready.engine.run() == {"state": "ROLLED_BACK"}
    assert "approve it" in ready.rollout().reason
    assert ready.shares() == {"v1": 100.0}


def test_what_a_rollout_cannot_begin_with(ready: World) -> None:
    with pytest.raises(FailedPrecondition, match="ALREADY_CHAMPION"):
        ready.begin(V1)
    ready.begin(V2)
    with pytest.raises(FailedPrecondition, match="ROLLOUT_ACTIVE"):
        ready.begin(V3)
    with pytest.raises(FailedPrecondition, match="ROLLOUT_ACTIVE"):
        ready.endpoints.deploy_version("late", V3, "", "keys/me", key())
    with pytest.raises(FailedPrecondition, match="ROLLOUT_ACTIVE"):
        ready.endpoints.delete_endpoint("late", "keys/me", key())


def test_without_a_champion_there_is_no_rollout(world: World) -> None:
    world.create()
    with pytest.raises(FailedPrecondition, match="NO_TRAFFIC_TABLE"):
        world.begin()


STEPS_OF_A_PROMOTION = 17


@pytest.mark.parametrize("kill_at", range(STEPS_OF_A_PROMOTION))
def test_a_rollout_that_is_killed_anywhere_goes_on(ready: World, kill_at: int) -> None:
    ready.begin()
    try:
        ready.engine.run(kill_at=kill_at)
    except Killed:
        ready.engine.run()
    else:
        pytest.fail("there are fewer steps than this test believes")
    assert ready.rollout().state is RolloutState.PROMOTED
    tables, _ = ready.endpoints.list_tables("late", Page(20))
    assert [t.variant("v2").weight for t in reversed(tables[:-1])] == [0, 5, 25, 50, 100]
    assert [e.decision for e in ready.rollout().events].count("advanced") == 4
    assert ready.registry.aliases == {"champion": V2}
    assert ready.changes().count("promoted") == 1


def test_a_service_that_stops_leaves_the_rollout_where_it_is(ready: World) -> None:
    def say(n: int) -> Look:
        assert ready.engine.context is not None
        ready.engine.context.interrupted = True
        return Look(Decision.CONTINUE, (), 0)

    ready.judge.say = say
    ready.begin()
    with pytest.raises(Killed):
        ready.engine.run()
    assert ready.rollout().state is RolloutState.SHADOW
    ready.judge.say = lambda n: Look(Decision.SHIP, (), n * 10)
    assert ready.engine.run() == {"state": "PROMOTED"}
