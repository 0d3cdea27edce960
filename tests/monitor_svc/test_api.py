"""The whole service behind a real gRPC server, with real streams and fake peers."""

from __future__ import annotations

import dataclasses
import io
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import grpc
import numpy as np
import pyarrow as pa
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from modelyard.data.v1 import data_pb2
from modelyard.events.v1 import events_pb2
from modelyard.features.v1 import features_pb2, features_pb2_grpc
from modelyard.monitoring.v1 import monitoring_pb2 as pb
from modelyard.monitoring.v1 import monitoring_pb2_grpc
from modelyard.registry.v1 import registry_pb2, registry_pb2_grpc
from modelyard.serving.v1 import serving_pb2, serving_pb2_grpc
from modelyard.training.v1 import training_pb2, training_pb2_grpc
from pydantic import SecretStr

from monitor_svc.__main__ import MonitorSettings, build
from monitor_svc.domain.alerts import Action, ActionState, Alert, AlertKind, AlertState
from monitor_svc.domain.monitors import Monitor, Policy, Response, Severity
from monitor_svc.peers import Retraining, Rollback
from service_kit.channels import Peers, calling, open_channel
from service_kit.errors import AlreadyExists, DomainError, InvalidArgument, NotFound
from service_kit.server import ServiceServer
from service_kit.streams import Event, EventStreams
from tests.arrow import TIME, decoded, encoded
from tests.monitor_svc.conftest import DAY, START

SET = "trainingSets/" + "a" * 64
WARM_SET = "trainingSets/" + "b" * 64


@dataclass
class Peer(
    features_pb2_grpc.FeatureServiceServicer,
    registry_pb2_grpc.RegistryServiceServicer,
    serving_pb2_grpc.ServingServiceServicer,
    training_pb2_grpc.TrainingServiceServicer,
):
    """The other services."""

    runs: list[training_pb2.RunPipelineRequest] = dataclasses.field(default_factory=list)
    rollbacks: list[serving_pb2.RollbackEndpointRequest] = dataclasses.field(default_factory=list)

    lineages: dict[str, str] = dataclasses.field(default_factory=dict)
    registry_away: bool = False

    def ReadTrainingSet(self, request, context):  # noqa: N802
        shift = 2.5 if request.name == WARM_SET else 0.0
        for seed in range(4):
            yield features_pb2.TableChunk(arrow_ipc=arrow(2_000, seed, shift))

    def GetModelVersion(self, request, context):  # noqa: N802
        if self.registry_away:
            context.abort(grpc.StatusCode.UNAVAILABLE, "away")
        lineage = registry_pb2.Lineage(training_set=self.lineages[request.name])
        return registry_pb2.ModelVersion(name=request.name, lineage=lineage)

    def RunPipeline(self, request, context):  # noqa: N802
        self.runs.append(request)
        return training_pb2.PipelineRun(name=f"{request.pipeline}/runs/1")

    def RollbackEndpoint(self, request, context):  # noqa: N802
        self.rollbacks.append(request)
        return serving_pb2.Endpoint(name=request.endpoint)


def arrow(count: int, seed: int = 0, shift: float = 0.0) -> bytes:
    rng = np.random.default_rng(seed)
    table = pa.table(
        {
            "temp": rng.normal(shift, 1, size=count),
            "carrier": [f"c{i}" for i in rng.integers(0, 5, size=count)],
            "late": rng.random(count) < 0.2,
            "event_timestamp": pa.array(
                START - rng.integers(1, 20 * DAY, size=count), pa.timestamp("us", tz="UTC")
            ),
        }
    )
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


@pytest.fixture
def peer() -> Iterator[tuple[Peer, str]]:
    servicer = Peer()
    server = grpc.server(futures.ThreadPoolExecutor(4))
    features_pb2_grpc.add_FeatureServiceServicer_to_server(servicer, server)
    registry_pb2_grpc.add_RegistryServiceServicer_to_server(servicer, server)
    serving_pb2_grpc.add_ServingServiceServicer_to_server(servicer, server)
    training_pb2_grpc.add_TrainingServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield servicer, f"127.0.0.1:{port}"
    server.stop(0).wait()


@dataclass
class Running:
    stub: monitoring_pb2_grpc.MonitoringServiceStub
    streams: EventStreams
    peer: Peer


@pytest.fixture
def running(
    sql_url: str, redis_url: str, stream_prefix: str, tmp_path: Path, peer: tuple[Peer, str]
) -> Iterator[Running]:
    areas = dict.fromkeys(("features", "registry", "training", "serving"), peer[1])
    settings = MonitorSettings(
        service="monitoring", home=tmp_path, database_url=sql_url, redis_url=redis_url,
        stream_prefix=stream_prefix, service_token=SecretStr("s" * 64), peers=areas,
    )  # fmt: skip
    application = build(settings)
    streams = EventStreams(redis_url, stream_prefix)
    with (
        ServiceServer(settings, application.services, application.pings) as server,
        open_channel(server.address, settings) as channel,
    ):
        for work in application.background:
            work.start()
        yield Running(monitoring_pb2_grpc.MonitoringServiceStub(channel), streams, peer[0])
        for work in reversed(application.background):
            work.stop()
    streams.close()


def wanted(**changes: object) -> pb.CreateMonitorRequest:
    monitor = pb.Monitor(
        endpoint="endpoints/late",
        reference_training_set=SET,
        window=Duration(seconds=86_400),
        features=["temp", "carrier"],
        policies=[
            pb.Policy(
                severity="SEVERITY_WARNING", response="RESPONSE_RETRAIN", pipeline="pipelines/late"
            ),
            pb.Policy(severity="SEVERITY_CRITICAL", response="RESPONSE_ROLLBACK"),
            pb.Policy(severity="SEVERITY_WARNING", response="RESPONSE_NOTIFY"),
        ],
    )
    monitor.MergeFrom(pb.Monitor(**changes))  # type: ignore[arg-type]
    return pb.CreateMonitorRequest(monitor_id="drift", monitor=monitor, request_id="r1")


def batch(day: int, shift: float, count: int = 400, version: int = 1) -> events_pb2.PredictionBatch:
    rng = np.random.default_rng(day)
    times = START + day * DAY + rng.integers(0, DAY, size=count)
    scores = rng.beta(2, 5, size=count)
    temp = [*rng.normal(shift, 1, size=count)[1:].tolist(), None]
    columns = {
        "prediction_id": [f"p-{day}-{i}" for i in range(count)],
        "event_time": pa.array(times, TIME),
        "score": scores,
        "input.temp": temp,
        "input.carrier": [f"c{i}" for i in rng.integers(0, 5, size=count)],
    }
    return events_pb2.PredictionBatch(
        endpoint="endpoints/late", variant="a", model_version=f"models/late/versions/{version}",
        role=events_pb2.PredictionBatch.ROLE_PRIMARY, rows=encoded(columns),
    )  # fmt: skip


def until(check: Callable[[], object], seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.05)


def test_from_predictions_to_a_retraining(running: Running):
    stub, streams = running.stub, running.streams
    created = stub.CreateMonitor(wanted())
    assert created.reference_state == "READY (8000 rows)"
    assert stub.CreateMonitor(wanted()) == created
    days = [batch(day, 0.0 if day < 2 else 2.5) for day in range(5)]
    for message in days:
        streams.append("predictions", [Event.of("predictions", "endpoints/late", message)])
    until(lambda: running.peer.runs and running.peer.rollbacks)
    (alert,) = stub.ListAlerts(pb.ListAlertsRequest(parent="monitors/-")).alerts
    run = running.peer.runs[0]
    assert run.request_id == alert.name.rsplit("/", 1)[1]
    assert run.pipeline == "pipelines/late"
    assert run.trigger.kind == training_pb2.Trigger.KIND_DRIFT
    assert run.trigger.source == alert.name
    assert run.window_end == alert.event_time
    assert list(alert.features) == ["temp"]
    until(
        lambda: (
            {a.state for a in stub.GetAlert(pb.GetAlertRequest(name=alert.name)).actions}
            == {"DONE"}
        )
    )
    windows = stub.ListWindows(pb.ListWindowsRequest(parent=created.name, page_size=3))
    assert len(windows.windows) == 3
    assert windows.next_page_token
    rest = stub.ListWindows(
        pb.ListWindowsRequest(parent=created.name, page_token=windows.next_page_token)
    )
    assert len(rest.windows) == 1
    newest = windows.windows[0]
    assert {(f.detector, f.feature): f.drifted for f in newest.findings} == {
        ("psi", "temp"): True, ("psi", "carrier"): False,
    }  # fmt: skip
    assert newest.row_count == 400
    assert 0.2 < newest.mean_score < 0.4
    acknowledged = stub.AcknowledgeAlert(
        pb.AcknowledgeAlertRequest(name=alert.name, comment="spring", request_id="a1")
    )
    assert acknowledged.state == pb.Alert.STATE_ACKNOWLEDGED
    until(lambda: streams.length("alerts") == 2)


def test_the_reference_follows_a_promotion(running: Running):
    stub, peer = running.stub, running.peer
    peer.lineages = {"models/late/versions/1": SET, "models/late/versions/2": WARM_SET}
    peer.registry_away = True
    created = stub.CreateMonitor(wanted(follow_champion=True))
    assert created.follow_champion
    assert not created.HasField("reference_since")

    def send(day: int, shift: float, version: int) -> None:
        message = batch(day, shift, version=version)
        running.streams.append("predictions", [Event.of("predictions", "endpoints/late", message)])

    def monitor() -> pb.Monitor:
        return stub.GetMonitor(pb.GetMonitorRequest(name=created.name))

    for day in range(2):
        send(day, 0.0, 1)
    until(lambda: "(tried" in monitor().follow_status)
    assert monitor().reference_model_version == ""
    peer.registry_away = False
    until(lambda: monitor().reference_model_version == "models/late/versions/1")
    for day in range(2, 5):
        send(day, 2.5, 1)
    until(lambda: len(peer.runs) == 1)
    for day in range(5, 7):
        send(day, 2.5, 2)
    until(lambda: monitor().reference_model_version == "models/late/versions/2")
    moved = monitor()
    assert moved.reference_training_set == WARM_SET
    assert moved.reference_since.seconds * 1_000_000 == START + 7 * DAY
    assert (moved.follow_status, moved.reference_state) == ("", "READY (8000 rows)")
    (alert,) = stub.ListAlerts(pb.ListAlertsRequest(parent=created.name)).alerts
    assert alert.state == pb.Alert.STATE_RESOLVED
    assert alert.comment.startswith("the reference followed the champion")
    for day in range(7, 10):
        send(day, 2.5, 2)
    until(lambda: monitor().watermark.seconds * 1_000_000 == START + 9 * DAY)
    ask = pb.ListWindowsRequest(parent=created.name, page_size=2)
    drifted = [f.drifted for w in stub.ListWindows(ask).windows for f in w.findings]
    assert drifted == [False] * 4
    assert len(stub.ListAlerts(pb.ListAlertsRequest(parent=created.name)).alerts) == 1


def test_each_retraining_has_the_end_of_its_own_window(running: Running):
    policy = pb.Policy(
        severity="SEVERITY_WARNING", response="RESPONSE_RETRAIN", pipeline="pipelines/late",
        cooldown=Duration(seconds=2 * 86_400),
    )  # fmt: skip
    request = wanted()
    del request.monitor.policies[:]
    request.monitor.policies.append(policy)
    running.stub.CreateMonitor(request)
    for day in range(6):
        message = batch(day, 2.5)
        running.streams.append("predictions", [Event.of("predictions", "endpoints/late", message)])
    until(lambda: len(running.peer.runs) == 2)
    (alert,) = running.stub.ListAlerts(pb.ListAlertsRequest(parent="monitors/drift")).alerts
    alert_id = alert.name.rsplit("/", 1)[1]
    asked = {
        run.request_id: (run.window_end.seconds * 1_000_000 - START) // DAY
        for run in running.peer.runs
    }
    assert asked == {alert_id: 2, f"{alert_id}-2": 4}
    assert {run.trigger.source for run in running.peer.runs} == {alert.name}
    assert {run.trigger.kind for run in running.peer.runs} == {training_pb2.Trigger.KIND_DRIFT}
    assert all("temp" in run.trigger.reason for run in running.peer.runs)


def test_what_is_asked_again_is_the_same_although_the_alert_has_changed(
    peer: tuple[Peer, str], tmp_path: Path
):
    settings = MonitorSettings(
        service="monitoring", home=tmp_path, service_token=SecretStr("s" * 64),
        peers=dict.fromkeys(("training", "serving"), peer[1]),
    )  # fmt: skip
    peers = Peers(settings)
    watched = Monitor("drift", "endpoints/late")
    alert = Alert(
        "a1", "drift", AlertKind.DRIFT, Severity.CRITICAL, AlertState.OPEN, "temp drifts",
        ("temp",), START, datetime(2026, 6, 1, tzinfo=UTC),
    )  # fmt: skip
    for response, execute in (
        (Response.RETRAIN, Retraining(peers)), (Response.ROLLBACK, Rollback(peers)),
    ):  # fmt: skip
        policy = Policy(Severity.WARNING, response, pipeline="pipelines/late")
        action = Action(
            response.value, "a1", "drift", policy, "a1", ActionState.PENDING, START,
            why=alert.summary,
        )  # fmt: skip
        for summary in ("temp drifts", "temp and wind drift"):
            execute(action, dataclasses.replace(alert, summary=summary), watched)
    peers.close()
    first, second = peer[0].runs
    assert first == second
    assert (first.request_id, first.trigger.reason) == ("a1", "temp drifts")
    assert peer[0].rollbacks[0] == peer[0].rollbacks[1]
    assert peer[0].rollbacks[0].request_id == "a1"


def test_outcomes_become_performance(running: Running):
    stub = running.stub
    stub.CreateMonitor(wanted())
    message = batch(0, 0.0)
    running.streams.append("predictions", [Event.of("predictions", "endpoints/late", message)])
    rows = decoded(message.rows)
    outcomes = [
        pb.Outcome(prediction_id=name, value=float(score > 0.3))
        for name, score in zip(rows["prediction_id"], rows["score"], strict=True)
    ]
    request = pb.RecordOutcomesRequest(outcomes=outcomes, request_id="o1")
    assert stub.RecordOutcomes(request).accepted_count == 400
    assert stub.RecordOutcomes(request).accepted_count == 400
    ask = pb.GetPerformanceRequest(name="monitors/drift", group_by="MONTH")
    until(lambda: any(w.labelled_count for w in stub.GetPerformance(ask).windows))
    (window,) = stub.GetPerformance(ask).windows
    assert (window.row_count, window.labelled_count, window.role) == (400, 400, "primary")
    assert window.metrics["pr_auc"] > 0.99


def test_a_monitor_can_be_changed(running: Running):
    stub = running.stub
    created = stub.CreateMonitor(wanted(features=[]))
    change = pb.Monitor(name=created.name, min_rows=7, persistence=1, endpoint="endpoints/x")
    mask = FieldMask(paths=["min_rows", "persistence"])
    updated = stub.UpdateMonitor(pb.UpdateMonitorRequest(monitor=change, update_mask=mask))
    assert (updated.min_rows, updated.persistence) == (7, 1)
    assert updated.endpoint == "endpoints/late"
    assert updated.policies == created.policies
    rows = pb.Monitor(name=created.name, reference_rows=data_pb2.Table(arrow_ipc=arrow(500, 9)))
    updated = stub.UpdateMonitor(pb.UpdateMonitorRequest(monitor=rows))
    assert updated.reference_state == "READY (500 rows)"
    assert updated.reference_training_set == ""
    assert stub.GetMonitor(pb.GetMonitorRequest(name=created.name)) == updated
    assert [m.name for m in stub.ListMonitors(pb.ListMonitorsRequest()).monitors] == [created.name]


def _refused(call: Callable[[], object], kind: type[DomainError]) -> str | None:
    """The field that a call is refused for."""
    with pytest.raises(kind) as caught, calling("monitoring"):
        call()
    return caught.value.field


def test_bad_requests_name_the_field(running: Running):
    stub = running.stub
    detector = pb.DetectorConfig(detector="psi")
    detector.config.update({"bins": 1})
    sink = pb.Policy(severity="SEVERITY_WARNING", response="RESPONSE_NOTIFY", sink="webhook")
    cases: list[tuple[pb.CreateMonitorRequest, str]] = [
        (wanted(detectors=[detector]), "monitor.detectors[0].config.bins"),
        (wanted(detectors=[pb.DetectorConfig(detector="no")]), "monitor.detectors[0].detector"),
        (wanted(policies=[sink]), "monitor.policies[3].sink_config.url"),
        (wanted(policies=[pb.Policy(severity="SEVERITY_WARNING")]), "monitor.policies[3].response"),
        (wanted(features=["nope"]), "monitor.features"),
        (wanted(endpoint="late"), "monitor.endpoint"),
        (wanted(window=Duration(seconds=1 - 86_400)), "monitor.window"),
        (wanted(reference_rows=data_pb2.Table(arrow_ipc=b"junk")), "monitor.reference_rows"),
        (wanted(false_alarm_rate=0.9), "monitor.false_alarm_rate"),
    ]
    for request, where in cases:
        found = _refused(lambda request=request: stub.CreateMonitor(request), InvalidArgument)
        assert found == where
    assert not stub.ListMonitors(pb.ListMonitorsRequest()).monitors
    missing = pb.GetMonitorRequest(name="monitors/none")
    assert _refused(lambda: stub.GetMonitor(missing), NotFound) == "name"
    stub.CreateMonitor(wanted())
    again = wanted()
    again.request_id = ""
    assert _refused(lambda: stub.CreateMonitor(again), AlreadyExists) == "monitor_id"


def test_outcomes_that_cannot_be_are_refused(running: Running):
    cases = [
        (pb.Outcome(prediction_id="p", value=float("nan")), "outcomes[0].value"),
        (pb.Outcome(prediction_id="p", value=float("inf")), "outcomes[0].value"),
        (pb.Outcome(prediction_id="", value=1), "outcomes[0].prediction_id"),
        (pb.Outcome(prediction_id="p" * 65, value=1), "outcomes[0].prediction_id"),
    ]
    for outcome, where in cases:
        request = pb.RecordOutcomesRequest(outcomes=[outcome])
        found = _refused(
            lambda request=request: running.stub.RecordOutcomes(request), InvalidArgument
        )
        assert found == where
    sound = pb.RecordOutcomesRequest(outcomes=[pb.Outcome(prediction_id="p", value=1)])
    assert running.stub.RecordOutcomes(sound).accepted_count == 1
    # The outbox sends in order: what is refused has left nothing to be sent before it.
    until(lambda: running.streams.length("outcomes"))
    assert running.streams.length("outcomes") == 1


def test_a_malformed_event_is_set_aside_and_the_others_count(running: Running):
    stub, streams = running.stub, running.streams
    stub.CreateMonitor(wanted())
    crooked = batch(0, 0.0)
    crooked.rows = crooked.rows[:-100]
    for message in (crooked, batch(0, 0.0), batch(1, 0.0)):
        streams.append("predictions", [Event.of("predictions", "endpoints/late", message)])
    ask = pb.ListWindowsRequest(parent="monitors/drift")
    until(lambda: stub.ListWindows(ask).windows and streams.length("predictions.dead"))
    assert stub.ListWindows(ask).windows[0].row_count == 400
    assert streams.length("predictions.dead") == 1
