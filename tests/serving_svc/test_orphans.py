"""Which orphans go, and when: never so many that fewer than wanted are left."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st
from modelyard.dataplane.v1 import dataplane_pb2
from prometheus_client import CollectorRegistry

from serving_svc.api.dataplane_api import DataPlaneApi
from serving_svc.domain import Replica
from serving_svc.domain.deployments import relieved
from serving_svc.replica_metrics import ReplicaCollector
from tests.serving_svc.world import V1, World

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def replica(number: int, *, orphaned: bool, draining: bool) -> Replica:
    return Replica(f"r{number}", V1, "a:1", 0, 0, draining, NOW, orphaned=orphaned)


REPLICAS = st.lists(st.tuples(st.booleans(), st.booleans()), max_size=12).map(
    lambda pairs: [replica(n, orphaned=o, draining=d) for n, (o, d) in enumerate(pairs)]
)


@given(REPLICAS, st.integers(0, 6))
def test_as_many_stay_as_are_wanted_and_no_orphan_more(found: list[Replica], wanted: int) -> None:
    gone = relieved(found, wanted)
    assert all(each.orphaned and not each.draining for each in gone)
    usable = [each for each in found if not each.draining]
    left = [each for each in usable if each not in gone]
    assert len(left) >= min(wanted, len(usable))
    kept = [each for each in left if each.orphaned]
    placed = len(left) - len(kept)
    assert len(kept) <= max(0, wanted - placed)


@given(REPLICAS, st.integers(0, 6))
def test_who_goes_does_not_hang_on_the_order_of_reports(found: list[Replica], wanted: int) -> None:
    assert relieved(found[::-1], wanted) == relieved(found, wanted)


def report(world: World, replica_id: str, *, orphaned: bool) -> bool:
    """Whether a replica is told to drain."""
    request = dataplane_pb2.ReportReplicaRequest(
        replica_id=replica_id, model_version=V1, address="127.0.0.1:9", orphaned=orphaned
    )
    api = DataPlaneApi(world.dataplane, world.clock)
    return api.ReportReplica(request, None).drain


def test_an_orphan_is_relieved_once_another_one_is_placed(world: World) -> None:
    world.create()
    world.deploy(V1)
    with world.dataplane._changed:
        world.dataplane._replicas.clear()
    assert not report(world, "first", orphaned=False)
    assert not report(world, "first", orphaned=True)
    assert world.dataplane.live() == {V1: 1}, "it still takes requests"
    assert not report(world, "second", orphaned=False), "what is placed is Ray's to stop"
    assert report(world, "first", orphaned=True)


def test_an_orphan_of_a_version_that_nobody_wants_goes(world: World) -> None:
    assert report(world, "first", orphaned=True)


def test_the_metrics_say_which_replicas_are_orphans() -> None:
    found = [
        replica(1, orphaned=True, draining=False),
        replica(2, orphaned=False, draining=False),
        replica(3, orphaned=True, draining=True),
    ]
    registry = CollectorRegistry()
    registry.register(ReplicaCollector(lambda: found))
    metric = next(each for each in registry.collect() if each.name == "modelyard_replica_orphaned")
    assert {each.labels["replica"]: each.value for each in metric.samples} == {"r1": 1.0, "r2": 0.0}
