"""The service as it is wired: gRPC on a port, events from a Redis stream, SQL underneath."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import grpc
import numpy as np
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import MessageToJson
from google.protobuf.message import Message
from modelyard.events.v1 import events_pb2
from modelyard.experiments.v1 import experiments_pb2 as pb
from modelyard.experiments.v1 import experiments_pb2_grpc as stubs

from experiment_svc.__main__ import build
from service_kit import metrics
from service_kit.channels import calling, open_channel
from service_kit.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from service_kit.server import ServiceServer
from service_kit.settings import ServiceSettings
from service_kit.streams import Event, EventStreams, StreamConsumer

START = 1_370_000_000_000_000


@dataclass
class Service:
    """A running service, its streams and a stub."""

    stub: stubs.ExperimentServiceStub
    streams: EventStreams
    consumers: list[StreamConsumer]

    def take(self, stream: str, *messages: Message) -> None:
        """Put messages on a stream and let the consumers run dry."""
        self.streams.append(stream, [Event.of(stream, "key", one) for one in messages])
        for consumer in self.consumers:
            while consumer.poll_once():
                pass


@pytest.fixture
def service(sql_url: str, redis_url: str, stream_prefix: str, tmp_path: Path) -> Iterator[Service]:
    settings = ServiceSettings(
        service="experiments",
        home=tmp_path,
        database_url=sql_url,
        redis_url=redis_url,
        stream_prefix=stream_prefix,
        service_token="a-token-of-the-suite",
    )
    application = build(settings)
    consumers = [one for one in application.background if isinstance(one, StreamConsumer)]
    with (
        ServiceServer(settings, application.services, application.pings) as server,
        open_channel(server.address, settings) as channel,
    ):
        streams = EventStreams(redis_url, stream_prefix).patient()
        yield Service(stubs.ExperimentServiceStub(channel), streams, consumers)
        for consumer in consumers:
            consumer.stop()
        streams.close()


def wanted(**fields: object) -> pb.Experiment:
    base = {
        "subject": "endpoints/late/rollouts/1",
        "arms": [pb.Arm(arm="champion"), pb.Arm(arm="challenger")],
        "design": pb.Experiment.DESIGN_PAIRED,
        "primary": pb.MetricSpec(metric="brier"),
        "guardrails": [pb.Guardrail(metric=pb.MetricSpec(metric="error_rate"), max_value=0.05)],
    }
    return pb.Experiment(**{**base, **fields})


def create(service: Service, experiment_id: str = "exp-1", request_id: str = "", **fields: object):
    with calling("experiments"):
        return service.stub.CreateExperiment(
            pb.CreateExperimentRequest(
                experiment_id=experiment_id, experiment=wanted(**fields), request_id=request_id
            )
        )


def analyze(service: Service, name: str = "experiments/exp-1") -> pb.Analysis:
    with calling("experiments"):
        return service.stub.AnalyzeExperiment(pb.AnalyzeExperimentRequest(name=name))


def traffic(
    n: int, scores: np.ndarray, labels: np.ndarray, start: int = 0, failing: float = 0.0
) -> tuple[events_pb2.ExposureBatch, events_pb2.OutcomeBatch]:
    ids = [f"prediction-{start + index}" for index in range(n)]
    times = [START + (start + index) * 1_000_000 for index in range(n)]
    flags = np.zeros((n, 2), dtype=np.uint8)
    flags[: int(n * failing), 1] = 1
    exposures = events_pb2.ExposureBatch(
        experiment="experiments/exp-1",
        arms=["champion", "challenger"],
        unit_ids=ids,
        prediction_ids=ids,
        assigned=[0] * n,
        scores=scores.ravel(),
        event_times_us=times,
        latencies_us=[900] * (2 * n),
        errors=flags.tobytes(),
    )
    outcomes = events_pb2.OutcomeBatch(
        metric="label",
        prediction_ids=ids,
        values=labels,
        event_times_us=[time + 3_600_000_000 for time in times],
    )
    return exposures, outcomes


def draw(n: int, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    risk = rng.beta(1, 3, n)
    return risk, (rng.random(n) < risk).astype(float)


def test_a_broken_challenger_is_rolled_back(service: Service) -> None:
    created = create(service)
    assert created.name == "experiments/exp-1"
    assert created.state == pb.Experiment.STATE_RUNNING
    assert (created.rule.alpha, created.rule.min_samples) == (0.05, 100)
    assert created.max_outcome_delay.ToTimedelta() == timedelta(days=90)
    before = analyze(service)
    assert before.decision == pb.DECISION_CONTINUE
    assert not before.HasField("primary")
    risk, labels = draw(1_500)
    scores = np.column_stack([risk, np.random.default_rng(2).permutation(risk)])
    exposures, outcomes = traffic(1_500, scores, labels)
    service.take("exposures", exposures)
    assert analyze(service).samples == 0
    service.take("outcomes", outcomes)
    found = analyze(service)
    losses = (scores - labels[:, None]) ** 2
    assert found.decision == pb.DECISION_ROLLBACK
    assert found.samples == found.primary.control_samples == 1_500
    assert found.primary.control == pytest.approx(losses[:, 0].mean())
    assert found.primary.improvement == pytest.approx((losses[:, 0] - losses[:, 1]).mean())
    assert found.primary.upper < 0
    assert found.event_time.ToMicroseconds() == START + 1_499 * 1_000_000
    assert "worse" in found.reasons[0]
    assert analyze(service).name == found.name, "nothing new was seen"
    listed = service.stub.ListAnalyses(pb.ListAnalysesRequest(parent="experiments/exp-1"))
    assert [one.decision for one in listed.analyses] == [
        pb.DECISION_ROLLBACK,
        pb.DECISION_CONTINUE,
        pb.DECISION_CONTINUE,
    ]
    assert json.loads(MessageToJson(found))["decision"] == "DECISION_ROLLBACK"
    rows = 'modelyard_experiment_rows_total{fate="counted",kind="outcome"}'
    assert rows in metrics.render()[0].decode()


def test_a_better_challenger_ships(service: Service) -> None:
    create(service, rule=pb.DecisionRule(alpha=0.1, min_samples=50))
    risk, labels = draw(2_000)
    scores = np.column_stack([np.full(2_000, risk.mean()), risk])
    for part in np.split(np.arange(2_000), 4):
        service.take("exposures", traffic(500, scores[part], labels[part], int(part[0]))[0])
    for part in np.split(np.arange(2_000), 4):
        service.take("outcomes", traffic(500, scores[part], labels[part], int(part[0]))[1])
    found = analyze(service)
    assert found.decision == pb.DECISION_SHIP
    assert found.samples == 2_000


def test_a_failing_challenger_is_rolled_back_without_any_outcome(service: Service) -> None:
    create(service)
    risk, labels = draw(200)
    scores = np.column_stack([risk, risk])
    service.take("exposures", traffic(200, scores, labels, failing=0.4)[0])
    found = analyze(service)
    assert found.decision == pb.DECISION_ROLLBACK
    assert found.guardrails[0].breached
    assert found.guardrails[0].treatment == pytest.approx(0.4)


def test_an_event_that_cannot_be_read_stops_no_other(service: Service) -> None:
    create(service)
    risk, labels = draw(150)
    scores = np.column_stack([risk, risk])
    good, outcomes = traffic(150, scores, labels)
    bad = traffic(150, scores, labels, 1_000)[0]
    del bad.scores[:]
    service.take("exposures", bad, good)
    service.take("outcomes", outcomes)
    assert analyze(service).samples == 150


def test_requests_repeat_safely_and_bad_ones_name_the_field(service: Service) -> None:
    first = create(service, request_id="r1")
    assert create(service, request_id="r1") == first
    with pytest.raises(InvalidArgument):
        create(service, request_id="r1", hypothesis="another")
    with pytest.raises(AlreadyExists):
        create(service)
    bad = {
        "experiment.design": {"design": 0},
        "experiment.primary": {"primary": None},
        "experiment.primary.metric": {"primary": pb.MetricSpec(metric="f1")},
        "experiment.max_outcome_delay": {"max_outcome_delay": Duration(seconds=300_000_000_000)},
        "experiment.rule.min_samples": {"rule": pb.DecisionRule(min_samples=-4)},
    }
    for field, change in bad.items():
        with pytest.raises(InvalidArgument) as raised:
            create(service, "exp-2", **change)
        assert raised.value.field == field
    with pytest.raises(NotFound):
        analyze(service, "experiments/none")
    with pytest.raises(InvalidArgument):
        analyze(service, "models/x")


def test_concluding_and_listing(service: Service) -> None:
    names = [create(service, f"exp-{index}").name for index in range(5)]
    named = create(service, "").name
    request = pb.ConcludeExperimentRequest(name=names[0], conclusion="shipped", request_id="c")
    ended = service.stub.ConcludeExperiment(request)
    assert ended.state == pb.Experiment.STATE_CONCLUDED
    assert service.stub.ConcludeExperiment(request) == ended
    request.request_id = "d"
    with pytest.raises(FailedPrecondition), calling("experiments"):
        service.stub.ConcludeExperiment(request)
    assert service.stub.GetExperiment(pb.GetExperimentRequest(name=names[0])) == ended
    seen, token = [], ""
    while True:
        page = service.stub.ListExperiments(
            pb.ListExperimentsRequest(page_size=4, page_token=token)
        )
        seen += [one.name for one in page.experiments]
        token = page.next_page_token
        if not token:
            break
    assert seen == [named, *reversed(names)]
    with pytest.raises(grpc.RpcError):
        service.stub.ListExperiments(pb.ListExperimentsRequest(page_token="nonsense"))
