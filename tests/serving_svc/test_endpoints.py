"""Use cases about endpoints and traffic."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from service_kit.errors import (
    AlreadyExists,
    Conflict,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
)
from service_kit.paging import Page
from serving_svc.domain import Deployment, Endpoint, EndpointState, ModelVersion, Variant
from serving_svc.replicas import RayReplicas, ReplicaSettings, serve_child
from serving_svc.service import RequestKey
from tests.serving_svc.world import MODEL, NOW, V1, V2, V3, Kept, World, key

ME = ("keys/me", "by hand")


def state(world: World) -> tuple[EndpointState, str]:
    view = world.endpoints.get_endpoint("late")
    return view.state, view.reason


def test_an_endpoint_begins_empty_and_gets_its_defaults(world: World) -> None:
    endpoint = world.create()
    assert state(world) == (EndpointState.EMPTY, "")
    assert (endpoint.min_replicas, endpoint.max_replicas, endpoint.max_in_flight) == (1, 1, 256)
    with pytest.raises(AlreadyExists):
        world.create()
    with pytest.raises(NotFound):
        world.endpoints.get_endpoint("other")


@pytest.mark.parametrize("name", ["authorization", "cookie", "X-Tenant", "a b", "-x", "x-bin"])
def test_a_header_that_can_t_name_units_is_refused(world: World, name: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        world.create(routing_header=name)
    assert (caught.value.reason, caught.value.field) == (
        "INVALID_HEADER",
        "endpoint.routing_header",
    )


@pytest.mark.parametrize("rows", [-1, 1_000_001])
def test_answers_that_are_kept_are_bounded(world: World, rows: int) -> None:
    with pytest.raises(InvalidArgument) as caught:
        world.create(cache_rows=rows)
    assert (caught.value.reason, caught.value.field) == ("INVALID_LIMIT", "endpoint.cache_rows")


def test_endpoints_are_listed_in_pages(world: World) -> None:
    for name in ("c", "a", "b"):
        world.endpoints.create_endpoint(Endpoint(name, MODEL, NOW), "me", key())
    first, token = world.endpoints.list_endpoints(Page(2))
    rest, end = world.endpoints.list_endpoints(Page(2, token))
    assert [view.endpoint.endpoint_id for view in first + rest] == ["a", "b", "c"]
    assert (token, end) == ("b", "")


def test_a_deployment_loads_then_takes_all_the_traffic(world: World) -> None:
    world.create()
    world.endpoints.deploy_version("late", V1, "first", "keys/me", key())
    assert state(world)[0] is EndpointState.DEPLOYING
    assert world.table() is None
    assert world.engine.run() == {"state": "DEPLOYED"}
    assert state(world) == (EndpointState.READY, "")
    assert world.shares() == {"v1": 100.0}
    assert world.registry.aliases == {"champion": V1}
    assert world.registry.stages == {V1: "PRODUCTION"}
    assert world.changes() == ["created", "deploying", "deployed"]


def test_a_share_of_a_gpu_is_that_of_versions_loaded_from_then_on(world: World) -> None:
    endpoint = world.create(replica_gpus=0.25)
    world.deploy(V1)
    wanted = replace(endpoint, replica_gpus=None)
    world.endpoints.update_endpoint(wanted, ["replica_gpus"], "keys/me", key())
    world.deploy(V2)
    with world.store.read() as unit:
        shares = {each.version.name: each.gpus for each in unit.deployments("late")}
    assert shares == {V1: 0.25, V2: None}


@pytest.mark.parametrize(("said", "set_aside"), [(None, 0.5), (0.25, 0.25), (0.0, 0.0), (2.0, 2.0)])
def test_ray_serve_is_told_the_share(
    monkeypatch: pytest.MonkeyPatch, said: float | None, set_aside: float
) -> None:
    """What the service sets holds where the endpoint does not say."""
    version = ModelVersion(V1, "onnx", "ab" * 32, 3, 1, b"", "onnx")
    replicas = RayReplicas(ReplicaSettings("auto", "/home", {}, cpus=0.1, gpus=0.5))
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(replicas, "_ask", lambda **request: asked.append(request))
    replicas.apply(Deployment("late", version, "late-v1", 2, NOW, gpus=said))
    options = serve_child.options_of(asked[0])
    assert options["ray_actor_options"] == {"num_cpus": 0.1, "num_gpus": set_aside}
    assert (options["name"], options["num_replicas"]) == ("late-v1", 2)


def test_the_version_before_stays_loaded_for_one_generation(world: World) -> None:
    world.create()
    for version in (V1, V2, V3):
        world.deploy(version)
    world.reconcile()
    assert world.loaded() == {V2, V3}
    assert world.registry.stages == {V1: "ARCHIVED", V2: "ARCHIVED", V3: "PRODUCTION"}
    assert world.table().salt == world.endpoints.list_tables("late", Page(9))[0][-1].salt


def test_a_version_that_cannot_load_changes_nothing(world: World) -> None:
    world.create()
    world.deploy(V1)
    world.control.broken.add(V2)
    world.endpoints.deploy_version("late", V2, "", "keys/me", key())
    assert world.engine.run() == {"state": "FAILED"}
    found, reason = state(world)
    assert (found, world.shares()) == (EndpointState.READY, {"v1": 100.0})
    assert "no such runtime" in reason
    assert world.loaded() == {V1}


def test_a_version_that_the_registry_refuses_sees_no_request(world: World) -> None:
    world.create()
    world.registry.refuses["PRODUCTION"] = FailedPrecondition("APPROVAL_MISSING", "approve it")
    world.deploy(V1)
    assert world.table() is None
    assert state(world) == (EndpointState.EMPTY, "approve it")


def test_one_deployment_at_a_time(world: World) -> None:
    world.create()
    world.endpoints.deploy_version("late", V1, "", "keys/me", key())
    world.endpoints.deploy_version("late", V1, "", "keys/me", key())
    assert len(world.engine.started) == 1
    with pytest.raises(FailedPrecondition, match="DEPLOYMENT_ACTIVE"):
        world.endpoints.deploy_version("late", V2, "", "keys/me", key())


def test_a_deployment_by_alias_and_one_of_another_model(world: World) -> None:
    world.create()
    world.registry.aliases["next"] = V2
    world.deploy(f"{MODEL}/aliases/next")
    assert world.shares() == {"v2": 100.0}
    with pytest.raises(InvalidArgument, match="WRONG_MODEL"):
        world.endpoints.deploy_version("late", "models/other/versions/1", "", "me", key())


def test_traffic_changes_by_compare_and_set(world: World) -> None:
    world.create()
    world.deploy(V1)
    world.deploy(V2)
    halves = [Variant("", V1, 50.0), Variant("", V2, 50.0)]
    view = world.endpoints.update_traffic("late", 2, halves, {"u": "v1"}, ME, key())
    assert view.table.generation == 3
    assert view.table.champion == "v2"
    with pytest.raises(Conflict, match="STALE_GENERATION"):
        world.endpoints.update_traffic("late", 2, halves, {}, ME, key())
    with pytest.raises(FailedPrecondition, match="VERSION_NOT_LOADED"):
        world.endpoints.update_traffic("late", 3, [Variant("", V3, 100.0)], {}, ME, key())


def test_a_rollback_goes_to_the_last_good_table_and_then_further(world: World) -> None:
    world.create()
    for version in (V1, V2, V3):
        world.deploy(version)
    world.endpoints.rollback_endpoint("late", ME, key())
    assert world.shares() == {"v2": 100.0}
    world.endpoints.rollback_endpoint("late", ME, key())
    assert world.shares() == {"v1": 100.0}
    with pytest.raises(FailedPrecondition, match="NO_GOOD_TABLE"):
        world.endpoints.rollback_endpoint("late", ME, key())
    tables, _ = world.endpoints.list_tables("late", Page(10))
    assert [table.generation for table in tables] == [5, 4, 3, 2, 1]


def test_a_request_that_is_repeated_gets_its_first_answer(world: World) -> None:
    world.create()
    world.deploy(V1)
    world.deploy(V2)

    def again(body: bytes) -> RequestKey[object, Kept]:
        def encode(view: object) -> Kept:
            return Kept(str(view.table.generation))  # type: ignore[attr-defined]

        return RequestKey("m", "id-1", body, encode, lambda kept: Kept(kept.decode()))

    first = world.endpoints.rollback_endpoint("late", ME, again(b"x"))
    second = world.endpoints.rollback_endpoint("late", ME, again(b"x"))
    assert (first.text, second.text) == ("3", "3")
    assert world.table().generation == 3
    with pytest.raises(InvalidArgument, match="REQUEST_ID_REUSED"):
        world.endpoints.rollback_endpoint("late", ME, again(b"y"))


def test_more_replicas_are_asked_for_when_the_settings_say_so(world: World) -> None:
    world.create()
    world.deploy(V1)
    wanted = Endpoint("late", MODEL, NOW, min_replicas=3, max_replicas=3)
    world.endpoints.update_endpoint(wanted, ["min_replicas", "max_replicas"], "me", key())
    assert world.dataplane.live() == {V1: 3}
    with pytest.raises(InvalidArgument, match="FIELD_NOT_CHANGEABLE"):
        world.endpoints.update_endpoint(wanted, ["model"], "me", key())


def test_a_deleted_endpoint_lets_its_replicas_go(world: World) -> None:
    world.create()
    world.deploy(V1)
    world.endpoints.delete_endpoint("late", "me", key())
    world.reconcile()
    assert world.control.apps == {}
    with pytest.raises(NotFound):
        world.endpoints.get_endpoint("late")
    assert world.create().generation == 0


def test_an_endpoint_without_its_champion_is_degraded(world: World) -> None:
    world.create()
    world.deploy(V1)
    world.control.report("late-v1", 0, draining=True)
    assert state(world)[0] is EndpointState.DEGRADED


@pytest.mark.parametrize("kill_at", range(5))
def test_a_deployment_that_is_killed_anywhere_goes_on(world: World, kill_at: int) -> None:
    from tests.serving_svc.world import Killed

    world.create()
    world.deploy(V1)
    world.endpoints.deploy_version("late", V2, "", "keys/me", key())
    with pytest.raises(Killed):
        world.engine.run(kill_at=kill_at)
    assert world.engine.run() == {"state": "DEPLOYED"}
    assert (world.shares(), world.table().generation) == ({"v2": 100.0}, 2)
    assert world.registry.stages == {V1: "ARCHIVED", V2: "PRODUCTION"}
    assert world.registry.aliases == {"champion": V2}


def test_what_was_recorded_and_not_started_is_started_at_the_next_start(world: World) -> None:
    world.create()
    world.endpoints.deploy_version("late", V1, "", "keys/me", key())
    lost = dict(world.engine.started)
    world.engine.started.clear()
    world.endpoints.resume()
    assert world.engine.started.keys() == lost.keys()
    world.engine.run()
    assert world.shares() == {"v1": 100.0}


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"last_answer_rows": -1}, "INVALID_LIMIT"),
        ({"last_answer_rows": 1_000_001}, "INVALID_LIMIT"),
        ({"last_answer_age": timedelta(days=8)}, "INVALID_AGE"),
        ({"last_answer_age": timedelta(seconds=-1)}, "INVALID_AGE"),
        ({"last_answer_age": timedelta(seconds=1.5)}, "INVALID_AGE"),
    ],
)
def test_last_answers_are_bounded(world: World, given: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        world.create(**given)
    assert (caught.value.reason, caught.value.field) == (reason, f"endpoint.{next(iter(given))}")


def test_a_last_answer_may_be_an_hour_old_unless_said_otherwise(world: World) -> None:
    world.create(last_answer_rows=5, last_answer_age=timedelta())
    assert world.endpoints.get_endpoint("late").endpoint.last_answer_age == timedelta(hours=1)
