"""Versions get as many replicas as their load asks for."""

from __future__ import annotations

from dataclasses import replace

import pytest

from service_kit.errors import Unavailable
from serving_svc.domain import Deployment, Endpoint, Replica
from serving_svc.domain.scaling import ScalingPolicy
from serving_svc.service import Autoscaler
from tests.serving_svc.world import MODEL, NOW, V1, V2, World, key

POLICY = ScalingPolicy(target_rows=10, up_after_s=2, down_after_s=5)


class Scaled:
    """An autoscaler whose time is the test's."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.now = 0.0
        self.scaler = Autoscaler(
            world.store, world.dataplane, POLICY, world.reconcile, lambda: self.now
        )

    def look(self, times: int, rows: int, version: str = V1) -> None:
        """Look so many times, a second apart, at replicas with so many rows each."""
        for _ in range(times):
            plane = self.world.dataplane
            for each in list(plane._replicas.values()):
                if each.model_version == version and not each.draining:
                    plane.report(replace(each, in_flight_rows=rows))
            self.now += 1
            self.scaler.look_once()

    def deployment(self, version: str = V1) -> Deployment:
        with self.world.store.read() as unit:
            return next(each for each in unit.deployments() if each.version.name == version)


@pytest.fixture
def scaled(world: World) -> Scaled:
    world.create(min_replicas=1, max_replicas=4)
    world.deploy(V1)
    return Scaled(world)


def test_load_brings_replicas_and_its_end_takes_them_away(scaled: Scaled) -> None:
    scaled.look(3, rows=25)
    assert scaled.world.dataplane.live() == {V1: 3}
    scaled.look(10, rows=0)
    assert scaled.world.dataplane.live() == {V1: 1}


def test_what_is_withdrawn_is_pushed_to_nobody(scaled: Scaled) -> None:
    scaled.look(3, rows=25)
    scaled.look(10, rows=0)
    assert len(scaled.world.dataplane.view().replicas) == 1


def test_the_endpoint_says_how_many_there_may_be(scaled: Scaled) -> None:
    scaled.look(5, rows=900)
    assert scaled.deployment().replicas == 4
    wanted = Endpoint("late", MODEL, NOW, min_replicas=2, max_replicas=3)
    scaled.world.endpoints.update_endpoint(wanted, ["min_replicas", "max_replicas"], "me", key())
    assert scaled.deployment().replicas == 3
    assert scaled.world.dataplane.live() == {V1: 3}


def test_what_takes_over_begins_with_as_many(scaled: Scaled) -> None:
    scaled.look(3, rows=25)
    scaled.world.deploy(V2)
    assert scaled.world.dataplane.live()[V2] == 3


def test_without_reports_nothing_changes(scaled: Scaled) -> None:
    scaled.world.dataplane._replicas.clear()
    scaled.look(20, rows=0)
    assert scaled.deployment().replicas == 1


def test_a_count_that_ray_did_not_take_is_asked_for_again(scaled: Scaled) -> None:
    world = scaled.world
    scale, world.control.scale = world.control.scale, _away  # type: ignore[method-assign]
    with pytest.raises(Unavailable):
        scaled.look(3, rows=25)
    world.control.scale = scale  # type: ignore[method-assign]
    world.reconcile()
    assert world.dataplane.live() == {V1: 3}


def test_a_lost_replica_is_not_made_up_for_twice(scaled: Scaled) -> None:
    scaled.look(3, rows=25)
    gone: Replica = next(iter(scaled.world.dataplane._replicas.values()))
    scaled.world.dataplane.report(replace(gone, draining=True))
    scaled.look(4, rows=10)
    assert scaled.deployment().replicas == 3


def _away(app: str, replicas: int) -> None:
    raise Unavailable("RAY_UNAVAILABLE", "Ray is not connected")


def test_the_record_is_not_read_at_each_look(
    scaled: Scaled, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[float] = []
    read = scaled.world.store.read
    monkeypatch.setattr(scaled.world.store, "read", lambda: (reads.append(scaled.now), read())[1])
    scaled.look(20, rows=1)
    assert reads == [1.0, 6.0, 11.0, 16.0]


def test_a_version_that_begins_to_report_is_looked_up_at_once(scaled: Scaled) -> None:
    scaled.look(1, rows=0)
    scaled.world.deploy(V2)
    scaled.look(3, rows=25, version=V2)
    assert scaled.world.dataplane.live()[V2] == 3
