"""What is pushed to the gateway, and when."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from datetime import timedelta

import pytest

from serving_svc.service import DataPlane, DataPlaneView
from tests.serving_svc.world import V1, V2, World


@pytest.fixture
def ready(world: World) -> World:
    world.create()
    world.deploy(V1)
    return world


def follow(plane: DataPlane) -> tuple[list[tuple[float, DataPlaneView]], threading.Thread]:
    seen: list[tuple[float, DataPlaneView]] = []

    def run() -> None:
        for view in plane.watch():
            seen.append((time.monotonic(), view))  # noqa: PERF401 - read while it grows

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return seen, thread


def until(condition: object, seconds: float = 3.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_the_whole_state_comes_at_once_and_after_each_change(ready: World) -> None:
    seen, thread = follow(ready.dataplane)
    until(lambda: seen)
    first = seen[0][1]
    assert [route.table.champion for route in first.routes] == ["v1"]
    assert [replica.model_version for replica in first.replicas] == [V1]
    before = time.monotonic()
    ready.control.versions["late-v2"] = V2
    ready.control.report("late-v2", 0)
    until(lambda: len(seen) > 1)
    assert seen[1][0] - before < 0.2
    assert {replica.model_version for replica in seen[1][1].replicas} == {V1, V2}
    assert seen[1][1].revision > first.revision
    ready.dataplane.stop()
    thread.join(2)
    assert not thread.is_alive()


def test_a_report_that_says_nothing_new_is_not_pushed(ready: World) -> None:
    watch: Iterator[DataPlaneView] = ready.dataplane.watch()
    first = next(watch)
    ready.control.report("late-v1", 0)
    assert ready.dataplane.view().revision == first.revision


def test_a_replica_that_drains_or_is_lost_is_gone(ready: World) -> None:
    ready.control.versions["late-v2"] = V2
    ready.control.report("late-v2", 0)
    ready.control.report("late-v1", 0, draining=True)
    assert [replica.model_version for replica in ready.dataplane.view().replicas] == [V2]
    ready.clock.advance(timedelta(seconds=5))
    ready.dataplane.sweep_once()
    assert ready.dataplane.live() == {V2: 1}
    ready.clock.advance(timedelta(seconds=3))
    ready.dataplane.sweep_once()
    assert ready.dataplane.view().replicas == []


def test_after_a_restart_the_revision_grows_and_replicas_may_report_first(ready: World) -> None:
    old = ready.dataplane.view()
    restarted = DataPlane(ready.store, ready.clock, settling=5.0)
    seen, _ = follow(restarted)
    time.sleep(0.05)
    assert not seen
    ready.control.dataplane = restarted
    ready.control.report("late-v1", 0)
    until(lambda: seen)
    assert seen[0][1].revision > old.revision
    assert [replica.model_version for replica in seen[0][1].replicas] == [V1]
    restarted.stop()


def test_a_rollouts_table_is_pushed_with_its_experiment(ready: World) -> None:
    ready.begin()
    tables = []
    original = ready.judge.say

    def say(n: int):  # type: ignore[no-untyped-def]
        tables.append(ready.dataplane.view().routes[0].table)
        return original(n)

    ready.judge.say = say
    ready.engine.run()
    assert {table.experiment for table in tables} == {ready.rollout().experiment}
    assert not ready.dataplane.view().routes[0].table.experiment
    assert ready.endpoints.get_endpoint("late").reason == ""
