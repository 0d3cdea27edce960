"""The gRPC face: names, messages and errors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from modelyard.dataplane.v1 import dataplane_pb2, dataplane_pb2_grpc
from modelyard.serving.v1 import serving_pb2, serving_pb2_grpc

from service_kit.channels import calling, open_channel
from service_kit.errors import DomainError
from service_kit.server import ServiceServer
from service_kit.settings import ServiceSettings
from serving_svc.api import DataPlaneApi, ServingApi
from serving_svc.domain import Decision, Look
from tests.serving_svc.world import MODEL, V1, V2, World

SETTINGS = ServiceSettings(service="serving", service_token="a-token-for-tests")
NAME = "endpoints/late"


class Client:
    """Stubs on a running server, and the world behind it."""

    def __init__(self, world: World, channel: grpc.Channel) -> None:
        self.world = world
        self.serving = serving_pb2_grpc.ServingServiceStub(channel)
        self.dataplane = dataplane_pb2_grpc.DataPlaneServiceStub(channel)

    def create(self, **given: Any) -> serving_pb2.Endpoint:
        wanted = serving_pb2.Endpoint(model=MODEL, outcome_independent=True, **given)
        return self.serving.CreateEndpoint(
            serving_pb2.CreateEndpointRequest(
                endpoint_id="late", endpoint=wanted, request_id="create"
            )
        )

    def deploy(self, version: str) -> serving_pb2.Endpoint:
        request = serving_pb2.DeployVersionRequest(endpoint=NAME, model_version=version)
        self.serving.DeployVersion(request)
        self.world.engine.run()
        return self.serving.GetEndpoint(serving_pb2.GetEndpointRequest(name=NAME))


@pytest.fixture
def client(world: World) -> Iterator[Client]:
    server = ServiceServer(
        SETTINGS,
        [
            (
                serving_pb2_grpc.add_ServingServiceServicer_to_server,
                ServingApi(world.endpoints, world.rollouts),
            ),
            (
                dataplane_pb2_grpc.add_DataPlaneServiceServicer_to_server,
                DataPlaneApi(world.dataplane, world.clock),
            ),
        ],
    )
    with server, open_channel(server.address, SETTINGS) as channel:
        yield Client(world, channel)
        world.dataplane.stop()


def refused(call: Any, request: Any) -> tuple[str, str | None]:
    with pytest.raises(DomainError) as caught, calling("serving"):
        call(request)
    return caught.value.reason, caught.value.field


def test_an_endpoint_from_creation_to_deletion(client: Client) -> None:
    created = client.create(description="late?", default_outputs=[0.2])
    assert created == client.create(description="late?", default_outputs=[0.2])
    assert (created.name, created.deadline.seconds, created.min_replicas) == (NAME, 1, 1)
    assert created.state == serving_pb2.Endpoint.STATE_EMPTY
    served = client.deploy(V1)
    assert served.state == serving_pb2.Endpoint.STATE_READY
    assert [(v.variant, v.weight) for v in served.traffic.variants] == [("v1", 100.0)]
    assert served.traffic.actor == "services/serving"
    change = serving_pb2.UpdateEndpointRequest(
        endpoint=serving_pb2.Endpoint(name=NAME, description="new", routing_key="x")
    )
    change.update_mask.paths.append("description")
    changed = client.serving.UpdateEndpoint(change)
    assert (changed.description, changed.routing_key) == ("new", "")
    listed = client.serving.ListEndpoints(serving_pb2.ListEndpointsRequest())
    assert [each.name for each in listed.endpoints] == [NAME]
    gone = serving_pb2.DeleteEndpointRequest(name=NAME, request_id="d")
    client.serving.DeleteEndpoint(gone)
    client.serving.DeleteEndpoint(gone)
    get = serving_pb2.GetEndpointRequest(name=NAME)
    assert refused(client.serving.GetEndpoint, get) == ("ENDPOINT_NOT_FOUND", "name")


def test_what_is_wrong_is_named(client: Client) -> None:
    create = client.serving.CreateEndpoint
    bad = serving_pb2.CreateEndpointRequest(endpoint_id="A", endpoint={"model": MODEL})
    assert refused(create, bad) == ("INVALID_ID", "endpoint_id")
    bad = serving_pb2.CreateEndpointRequest(endpoint_id="a", endpoint={"model": "delay"})
    assert refused(create, bad) == ("INVALID_NAME", "endpoint.model")
    bad.endpoint.model = MODEL
    bad.endpoint.default_outputs.append(float("nan"))
    assert refused(create, bad) == ("NOT_FINITE", "endpoint.default_outputs")
    del bad.endpoint.default_outputs[:]
    for gpus in (-0.5, 1.5, 65, float("nan"), float("inf")):
        bad.endpoint.replica_gpus = gpus
        assert refused(create, bad) == ("INVALID_GPUS", "endpoint.replica_gpus")
    get = serving_pb2.GetEndpointRequest(name="late")
    assert refused(client.serving.GetEndpoint, get) == ("INVALID_NAME", "name")
    client.create()
    client.deploy(V1)
    half = serving_pb2.UpdateTrafficRequest(
        endpoint=NAME, generation=1, variants=[{"model_version": V1, "weight": 50}]
    )
    assert refused(client.serving.UpdateTraffic, half) == ("WEIGHTS_NOT_100", "variants")
    report = dataplane_pb2.ReportReplicaRequest(replica_id="r", model_version=V1)
    assert refused(client.dataplane.ReportReplica, report) == ("INVALID_REPORT", "address")


def test_a_share_of_a_gpu_is_said_or_not(client: Client) -> None:
    assert not client.create().HasField("replica_gpus")
    for said in (0.25, 0.0, 2.0):
        change = serving_pb2.UpdateEndpointRequest(
            endpoint=serving_pb2.Endpoint(name=NAME, replica_gpus=said)
        )
        change.update_mask.paths.append("replica_gpus")
        changed = client.serving.UpdateEndpoint(change)
        assert (changed.HasField("replica_gpus"), changed.replica_gpus) == (True, said)
    change.endpoint.ClearField("replica_gpus")
    assert not client.serving.UpdateEndpoint(change).HasField("replica_gpus")


def test_what_the_gateway_is_told_during_a_rollout(client: Client) -> None:
    client.create(
        max_in_flight=7,
        routing_header="x-tenant",
        cache_rows=50,
        last_answer_rows=9,
        last_answer_age={"seconds": 60},
    )
    client.deploy(V1)
    states = []

    def say(n: int) -> Look:
        watch = client.dataplane.WatchDataPlane(dataplane_pb2.WatchDataPlaneRequest(watcher="t"))
        states.append(next(iter(watch)))
        watch.cancel()
        return Look(Decision.SHIP, ("better",), n * 10)

    client.world.judge.say = say
    rollout = serving_pb2.Rollout(model_version=V2)
    rollout.strategy.steps.extend([12.5, 100])
    rollout.strategy.step_min_samples = 10
    rollout.strategy.interval.FromMilliseconds(50)
    request = serving_pb2.CreateRolloutRequest(parent=NAME, rollout=rollout)
    started = client.serving.CreateRollout(request)
    assert started.state == serving_pb2.Rollout.STATE_LOADING
    client.world.engine.run()
    routes = [state.endpoints[0] for state in states]
    shadow, ramp = routes[0], routes[-1]
    assert [(v.variant, v.weight_bp, v.shadow_bp) for v in shadow.variants] == [
        ("v1", 10_000, 0),
        ("v2", 0, 10_000),
    ]
    assert [v.weight_bp for v in ramp.variants] == [8_750, 1_250]
    assert (list(ramp.arms), ramp.paired, ramp.champion) == (["v1", "v2"], True, "v1")
    assert ramp.experiment == f"experiments/rollout-{started.name.rpartition('/')[2]}"
    assert (ramp.deadline_ms, ramp.max_in_flight) == (1_000, 7)
    assert (ramp.routing_header, ramp.cache_rows) == ("x-tenant", 50)
    assert (ramp.last_answer_rows, ramp.last_answer_age_s) == (9, 60)
    assert {replica.model_version for replica in states[-1].replicas} == {V1, V2}
    ended = client.serving.GetRollout(serving_pb2.GetRolloutRequest(name=started.name))
    assert (ended.state, ended.weight) == (serving_pb2.Rollout.STATE_PROMOTED, 100.0)
    assert ended.events[-1].reasons == ["better"]
    listed = client.serving.ListRollouts(serving_pb2.ListRolloutsRequest(parent=NAME))
    assert listed.rollouts == [ended]
    tables = client.serving.ListTrafficTables(
        serving_pb2.ListTrafficTablesRequest(endpoint=NAME, page_size=1)
    )
    assert tables.traffic_tables[0].champion == "v2"
    assert tables.next_page_token
