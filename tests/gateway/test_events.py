"""Micro-batches of events, asked for by the serving service and answered as requests are."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator, Sequence
from typing import Any

import grpc
import orjson
import pytest
from modelyard.dataplane.v1 import dataplane_pb2, dataplane_pb2_grpc

from service_kit.channels import Peers
from service_kit.errors import DomainError
from service_kit.grpc_status import error_from_rpc
from service_kit.ids import uuid7_str
from service_kit.settings import ServiceSettings
from serving_svc.domain.scorer_events import Answer, Entry, Event, Fate, Prediction, Problem
from serving_svc.stream import GatewayInference
from tests.gateway import tables
from tests.gateway.asking import GOOD
from tests.gateway.conftest import Suite
from tests.gateway.fakes import Rows, const, total

NOW_US = 1_372_756_500_000_000
PLAIN = {"x0": 1, "x1": 2.5}


def event(instance: Any, time_us: int = NOW_US) -> Event:
    data = orjson.dumps(instance)
    return Event(Entry("0-0", {}), "e", uuid7_str(), time_us, data)


class Scoring:
    """The gateway, asked as the serving service asks it."""

    def __init__(self, suite: Suite) -> None:
        self.suite = suite
        settings = ServiceSettings(
            service="serving", home=suite.settings.home, peers={"gateway": suite.grpc_address}
        )
        self.peers = Peers(settings)
        self.inference = GatewayInference(self.peers, 5.0)

    def ask(self, *events: Event, endpoint: str = "late") -> Sequence[Answer]:
        return self.suite.run(asyncio.to_thread(self.inference.score, endpoint, events))


@pytest.fixture
def scoring(suite: Suite) -> Iterator[Scoring]:
    made = Scoring(suite)
    yield made
    made.peers.close()


def serve(suite: Suite, *replicas: Any, **route: Any) -> list[Any]:
    """An endpoint on plain numbers with versions of these models, the first with all traffic."""
    made = [suite.replica(each) for each in replicas]
    weights = route.pop("weights", [10_000, *[0] * (len(made) - 1)])
    variants = [tables.variant(f"v{at + 1}", weight) for at, weight in enumerate(weights)]
    addresses = {f"v{at + 1}": each.address for at, each in enumerate(made)}
    suite.push(tables.route("late", *variants, **route), **addresses)
    return made


def test_each_event_stands_alone(scoring: Scoring, suite: Suite) -> None:
    replica = suite.replica(total)
    suite.push(
        tables.route("late", tables.variant("v1", 10_000, of=tables.signature())),
        v1=replica.address,
    )
    events = [
        event(GOOD),
        event({**GOOD, "carrier": "ZZZ"}),
        event({**GOOD, "distance": "far"}),
        event({**GOOD, "colour": "red"}),
        event(GOOD, time_us=2**60),
        event({**GOOD, "carrier": "AA"}),
    ]
    first, *poison, last = scoring.ask(*events)
    assert first == Prediction({"late": 1111.5}, "v1", "models/m/versions/1", "", 3)
    assert isinstance(last, Prediction)
    refused = Fate.REFUSED
    assert poison == [
        Problem(refused, "ENTITY_NOT_FOUND", "carrier"),
        Problem(refused, "WRONG_TYPE", "distance"),
        Problem(refused, "UNKNOWN_FIELD", "colour"),
        Problem(refused, "OUT_OF_RANGE", "time"),
    ]
    # Logged under the ids that they were given, with their own times.
    (batch,) = suite.predictions()
    assert batch["prediction_id"] == [events[0].prediction_id, events[-1].prediction_id]
    assert batch["event_time"] == [NOW_US, NOW_US]


def test_the_traffic_table_is_that_of_requests(scoring: Scoring, suite: Suite) -> None:
    serve(suite, const(1), const(2), weights=[5_000, 5_000], routing_key="x0")
    events = [event({"x0": n, "x1": 0}) for n in range(200)]
    answers = scoring.ask(*events)
    by_request = suite.post(
        "/v1/endpoints/late:predict", {"instances": [{"x0": n, "x1": 0} for n in range(200)]}
    ).json()["predictions"]
    found = [each.variant for each in answers if isinstance(each, Prediction)]
    assert found == [each["variant"] for each in by_request]
    assert set(found) == {"v1", "v2"}


def test_events_go_to_the_replica_together(scoring: Scoring, suite: Suite) -> None:
    (replica,) = serve(suite, const(1))
    replica.delay = 0.005
    assert len(scoring.ask(*[event(PLAIN)] * 256)) == 256
    assert sum(replica.batches) == 256
    assert len(replica.batches) <= 32


def test_a_failing_model_is_told_from_an_absent_one(scoring: Scoring, suite: Suite) -> None:
    (replica,) = serve(suite, const(1))
    replica.error = "MODEL_FAILED"
    assert scoring.ask(event(PLAIN)) == [Problem(Fate.FAILED, "MODEL_FAILED")]
    replica.error = ""
    replica.model = lambda rows: [[math.nan] for _ in rows]
    assert scoring.ask(event(PLAIN)) == [Problem(Fate.FAILED, "OUTPUT_NOT_FINITE")]
    suite.push(tables.route("late", tables.variant("v1", 10_000)))
    assert scoring.ask(event(PLAIN)) == [Problem(Fate.UNAVAILABLE, "NO_REPLICA")]


def test_what_one_does_to_the_model_is_not_the_others_fallback(
    scoring: Scoring, suite: Suite
) -> None:
    def picky(rows: Rows) -> Rows:
        return [[math.nan if row[0] == 13 else row[0]] for row in rows]

    serve(suite, picky, default_outputs=[0.5])
    answers = scoring.ask(*[event({"x0": n, "x1": 0}) for n in (1, 13, 2)])
    served = [(a.outputs["y"], a.fallback) for a in answers if isinstance(a, Prediction)]
    assert served == [(1, ""), (0.5, "default"), (2, "")]


def test_the_store_being_away_is_nobodys_fault(scoring: Scoring, suite: Suite) -> None:
    replica = suite.replica(total)
    suite.push(
        tables.route("late", tables.variant("v1", 10_000, of=tables.signature())),
        v1=replica.address,
    )
    suite.features.away = True
    assert scoring.ask(event(GOOD)) == [Problem(Fate.UNAVAILABLE, "STORE_BUSY")]


def test_a_batch_is_one_request_under_way(scoring: Scoring, suite: Suite) -> None:
    serve(suite, const(1), max_in_flight=1)
    assert all(isinstance(each, Prediction) for each in scoring.ask(*[event(PLAIN)] * 64))
    plane = suite.gateway.plane
    route = plane.route("late")
    assert plane.enter(route)
    with pytest.raises(DomainError, match="OVERLOADED"):
        scoring.ask(event(PLAIN))
    plane.leave(route)
    assert plane._in_flight[route.endpoint] == 0


def test_what_is_wrong_with_the_whole(scoring: Scoring, suite: Suite) -> None:
    serve(suite, const(1))
    with pytest.raises(DomainError, match="ENDPOINT_NOT_FOUND"):
        scoring.ask(event(PLAIN), endpoint="none")
    with pytest.raises(DomainError, match="WRONG_COUNT"):
        scoring.ask(*[event(PLAIN)] * 1_025)
    with pytest.raises(DomainError, match="WRONG_TYPE"):
        scoring.ask(event([1]))


def test_without_time_nothing_is_asked(scoring: Scoring, suite: Suite) -> None:
    (replica,) = serve(suite, const(1))
    scoring.inference = GatewayInference(scoring.peers, 0.3)
    answers = scoring.ask(event(PLAIN))
    assert answers == [Problem(Fate.UNAVAILABLE, "DEADLINE_EXCEEDED")]
    assert replica.batches == []


def test_when_the_time_is_up_what_was_answered_stands(scoring: Scoring, suite: Suite) -> None:
    (replica,) = serve(suite, const(1))
    replica.delay = 0.3
    scoring.inference = GatewayInference(scoring.peers, 1.4)
    answers = scoring.ask(*[event(PLAIN)] * 256)
    scored = [isinstance(each, Prediction) for each in answers]
    assert scored[0]
    assert not scored[-1]
    assert scored == sorted(scored, reverse=True)


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ({}, "BAD_SERVICE_TOKEN"),
        ({"authorization": "Bearer {key}"}, "BAD_SERVICE_TOKEN"),
        ({"x-api-key": "{key}"}, "BAD_SERVICE_TOKEN"),
        ({"authorization": "Service {token}"}, "NO_PRINCIPAL"),
        (
            {
                "authorization": "Service {token}",
                "modelyard-principal": "keys/a",
                "modelyard-scopes": "serving:predict",
            },
            "SCOPE_MISSING",
        ),
    ],
)
def test_only_the_suite_may_ask(suite: Suite, metadata: dict[str, str], reason: str) -> None:
    token = suite.settings.service_token.get_secret_value()
    given = [(k, v.format(key=suite.key, token=token)) for k, v in metadata.items()]

    async def call() -> None:
        async with grpc.aio.insecure_channel(suite.grpc_address) as channel:
            stub = dataplane_pb2_grpc.EventScoringServiceStub(channel)
            await stub.ScoreEvents(dataplane_pb2.ScoreEventsRequest(), metadata=given, timeout=5)

    with pytest.raises(grpc.RpcError) as caught:
        suite.run(call())
    assert error_from_rpc(caught.value, "gateway").reason == reason


def test_the_suites_token_opens_nothing_else(suite: Suite) -> None:
    token = suite.settings.service_token.get_secret_value()

    async def call() -> None:
        from modelyard.serving.v1 import serving_pb2, serving_pb2_grpc

        async with grpc.aio.insecure_channel(suite.grpc_address) as channel:
            stub = serving_pb2_grpc.PredictionServiceStub(channel)
            told = {"authorization": f"Service {token}", "modelyard-principal": "services/x"}
            await stub.Predict(serving_pb2.PredictRequest(), metadata=[*told.items()], timeout=5)

    with pytest.raises(grpc.RpcError) as caught:
        suite.run(call())
    assert error_from_rpc(caught.value, "gateway").reason == "NO_API_KEY"


def test_no_rest_route_leads_there(suite: Suite) -> None:
    page = suite.get("/openapi.json").text
    assert "StreamScorer" in page
    assert "ScoreEvents" not in page
