"""Shadows compared from the prediction log: on real files and databases, and over gRPC."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from modelyard.events.v1 import events_pb2
from modelyard.serving.v1 import predictions_pb2, predictions_pb2_grpc
from scipy import stats
from sqlalchemy import Engine

from service_kit.channels import calling, open_channel
from service_kit.errors import DomainError, InvalidArgument, NotFound, Unavailable
from service_kit.server import ServiceServer
from service_kit.settings import ServiceSettings
from serving_svc.api import PredictionLogApi
from serving_svc.domain.predictions import LogFile, first_id_at
from serving_svc.domain.shadows import Pairs
from serving_svc.prediction_log import PairReader
from serving_svc.service import shadows as use
from serving_svc.service.shadows import ComparedWindow, ShadowService
from tests.arrow import TIME, encoded
from tests.serving_svc.prediction_rows import Log
from tests.serving_svc.world import V1, V2, World

KINDS = events_pb2.PredictionBatch
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
LUCK = np.random.default_rng(11)


class Shadowed(Log):
    """A log of the endpoint `late`, and the comparison of its shadows."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        super().__init__(engine, folder)
        self.world = World(engine)
        self.world.create()
        self.comparing = self.service()

    def service(self, **given: Any) -> ShadowService:
        parts = {"catalogue": self.catalogue, "reader": PairReader(self.folder)} | given
        most = parts.pop("most_rows", use.MOST_ROWS)
        return ShadowService(
            self.world.store, parts["catalogue"], parts["reader"], self.clock, self.catch_up, most
        )

    def ids(self, count: int, ago: timedelta = timedelta(hours=1)) -> list[str]:
        """Ids of predictions that were asked for one after the other, from some time ago on."""
        start = self.clock.now() - ago
        return [first_id_at(start + timedelta(milliseconds=at)) for at in range(count)]

    def compare(self, **given: Any) -> ComparedWindow:
        return self.comparing.compare("late", **given)


@pytest.fixture
def log(sql_engine: Engine, tmp_path: Path) -> Shadowed:
    return Shadowed(sql_engine, tmp_path / "log")


def batch(
    ids: Sequence[str], scores: Sequence[float], variant: str = "v1", **given: Any
) -> events_pb2.PredictionBatch:
    count = len(ids)
    rows = {
        "prediction_id": pa.array(ids, pa.string()),
        "unit_id": ["u"] * count,
        "event_time": pa.array([1] * count, TIME),
        "score": scores,
        "latency_us": given.pop("latencies", [900] * count),
        "input.hour": [float(at) for at in range(count)],
    }
    return event(variant, rows, **given)


def failures(reasons: Mapping[str, str]) -> events_pb2.PredictionBatch:
    """What the shadow `v2` did not score, by id."""
    rows = {
        "prediction_id": pa.array(list(reasons), pa.string()),
        "event_time": pa.array([1] * len(reasons), TIME),
        "failure": pa.array(list(reasons.values()), pa.string()),
    }
    return event("v2", rows, shadow=True)


def event(
    variant: str, rows: dict[str, Any], *, shadow: bool = False, **more: Any
) -> events_pb2.PredictionBatch:
    return KINDS(
        endpoint="endpoints/late",
        variant=variant,
        model_version=f"{V1.rpartition('/')[0]}/{variant[1:]}",
        role=KINDS.ROLE_SHADOW if shadow else KINDS.ROLE_PRIMARY,
        table_generation=7,
        rows=encoded(rows | more),
    )


def test_rows_are_paired_by_their_id_wherever_they_lie(log: Shadowed) -> None:
    names = log.ids(400)
    answers, scores = LUCK.random(400), LUCK.random(400)
    took = LUCK.integers(100, 900, 400).tolist()
    order = LUCK.permutation(400)
    for part in np.array_split(order, 7):
        log.take(
            batch(
                [names[at] for at in part],
                scores[part].tolist(),
                "v2",
                shadow=True,
                latencies=[took[at] for at in part],
            )
        )
    half = batch(names[:250], answers[:250].tolist(), model_latency_us=[250] * 250)
    log.take(half, batch(names[250:], answers[250:].tolist()))
    (found,) = log.compare().comparisons
    assert (found.shadow.variant, found.answered.variant) == ("v2", "v1")
    assert (found.shadow.model_version, found.answered.model_version) == (V2, V1)
    assert found.agreement is not None
    assert found.agreement.rows == 400
    assert found.agreement.difference == pytest.approx((scores - answers).mean())
    assert found.agreement.spearman == pytest.approx(stats.spearmanr(answers, scores).statistic)
    assert found.latency is not None
    assert (found.latency.rows, found.latency.mean) == (400, pytest.approx(np.mean(took)))
    assert found.answered_latency is not None
    assert (found.answered_latency.rows, found.answered_latency.mean) == (250, 250)


def test_each_shadow_is_held_against_each_that_answered(log: Shadowed) -> None:
    names = log.ids(30)
    log.take(
        batch(names[:20], [0.1] * 20),
        batch(names[20:], [0.9] * 10, "v2"),
        batch(names[:20], [0.2] * 20, "v2", shadow=True),
        batch(names[:25], [0.3] * 25, "v3", shadow=True),
    )
    found = log.compare().comparisons
    assert [
        (each.shadow.variant, each.answered.variant, each.agreement and each.agreement.rows)
        for each in found
    ] == [("v2", "v1", 20), ("v3", "v1", 20), ("v3", "v2", 5)]


def test_what_no_model_answered_is_passed_over(log: Shadowed) -> None:
    names = log.ids(4)
    fallbacks = ["default", "champion", "last_answer"]
    answered = batch(names[:3], [0.5] * 3, fallback=fallbacks)
    log.take(answered, batch(names, [0.1] * 4, "v2", shadow=True))
    (found,) = log.compare().comparisons
    assert found.agreement is not None
    assert found.agreement.rows == 1


def test_failures_are_counted_by_reason_and_seen_on_the_prediction(log: Shadowed) -> None:
    names = log.ids(6)
    shadow = batch(names[:2], [0.1, 0.2], "v2", shadow=True)
    reasons = ("MODEL_FAILED", "MODEL_FAILED", "NO_REPLICA")
    failed = failures(dict(zip(names[2:5], reasons, strict=True)))
    only = failures({names[5]: "NO_REPLICA"})
    log.take(batch(names, [0.1] * 6), shadow, failed, only)
    (found,) = log.compare().comparisons
    assert found.agreement is not None
    assert found.agreement.rows == 2
    assert found.failures == {"MODEL_FAILED": 2, "NO_REPLICA": 2}
    (seen,) = log.use.get_prediction(names[4]).shadows
    assert (seen.score, seen.failure, seen.shadow) == (None, "NO_REPLICA", True)
    assert log.rows()[names[4]] == 2


def test_failures_that_are_not_sound_are_refused(log: Shadowed) -> None:
    for wrong in (failures({"nobody": "X"}), event("v2", {"failure": ["X"]}, shadow=True)):
        with pytest.raises(ValueError, match="prediction"):
            log.files.write([wrong])


def test_a_window_bounds_what_is_compared(log: Shadowed) -> None:
    old, young = log.ids(5, timedelta(hours=3)), log.ids(3, timedelta(hours=1))
    for names in (old, young):
        log.take(batch(names, [0.1] * len(names)))
        log.take(batch(names, [0.2] * len(names), "v2", shadow=True))
    now = log.clock.now()

    def rows(**given: Any) -> int:
        return sum(
            each.agreement.rows for each in log.compare(**given).comparisons if each.agreement
        )

    assert rows() == 8
    assert rows(start=now - timedelta(hours=2)) == 3
    assert rows(end=now - timedelta(hours=2)) == 5
    assert rows(start=now - timedelta(hours=3) + timedelta(milliseconds=2)) == 6
    assert rows(end=now - timedelta(days=2)) == 0


def test_a_look_reads_the_newest_rows_and_says_from_when_on(log: Shadowed) -> None:
    names = log.ids(60)
    for at in range(0, 60, 10):
        part = names[at : at + 10]
        log.take(batch(part, [0.1] * 10), batch(part, [0.2] * 10, "v2", shadow=True))
    # The greatest ids of answers and shadows are the same, so half a pair may be left out.
    log.comparing = log.service(most_rows=45)
    found = log.compare()
    (each,) = found.comparisons
    assert each.agreement is not None
    assert found.truncated
    compared = [name for name in names if name > first_id_at(found.start)]
    assert each.agreement.rows == len(compared) in (10, 20)
    whole = log.service(most_rows=120).compare("late")
    assert (whole.truncated, whole.comparisons[0].agreement.rows) == (False, 60)  # type: ignore[union-attr]


def test_what_is_still_in_the_stream_is_compared_too(log: Shadowed) -> None:
    names = log.ids(2)
    log.waiting += [batch(names, [0.1, 0.2]), batch(names, [0.1, 0.2], "v2", shadow=True)]
    (found,) = log.compare().comparisons
    assert found.agreement is not None
    assert found.agreement.exact == 1.0


def test_a_file_that_was_merged_meanwhile_is_looked_for_anew(log: Shadowed) -> None:
    names = log.ids(2)
    log.take(batch(names, [0.1, 0.2]), batch(names, [0.1, 0.2], "v2", shadow=True))

    class Gone:
        asked = 0

        def pairs(self, files: Sequence[LogFile], first: str, before: str) -> list[Pairs]:
            self.asked += 1
            if self.asked == 1:
                raise FileNotFoundError
            return PairReader(log.folder).pairs(files, first, before)

    gone = Gone()
    assert len(log.service(reader=gone).compare("late").comparisons) == 1
    assert gone.asked == 2
    gone.asked = -10

    class Never(Gone):
        def pairs(self, files: Sequence[LogFile], first: str, before: str) -> list[Pairs]:
            raise FileNotFoundError

    with pytest.raises(Unavailable, match="LOG_INCOMPLETE"):
        log.service(reader=Never()).compare("late")


def test_one_comparison_at_a_time_reads(log: Shadowed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(use, "TURN_S", 0.01)
    with log.comparing._reading, pytest.raises(Unavailable, match="COMPARISON_BUSY"):
        log.compare()
    assert log.compare().comparisons == []


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"start": NOON, "end": NOON - timedelta(hours=1)}, "start_time"),
        ({"threshold": float("nan")}, "threshold"),
        ({"tolerance": -1.0}, "tolerance"),
        ({"tolerance": float("inf")}, "tolerance"),
    ],
)
def test_what_is_wrong_is_named(log: Shadowed, given: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        log.compare(**given)
    assert caught.value.field == field


def test_an_endpoint_that_is_not_there(log: Shadowed) -> None:
    with pytest.raises(NotFound, match="ENDPOINT_NOT_FOUND"):
        log.comparing.compare("other")


def test_over_the_wire(log: Shadowed) -> None:
    names = log.ids(3)
    shadow = batch(names[:2], [0.6, 0.4], "v2", shadow=True, latencies=[300, 500])
    failed = failures({names[2]: "MODEL_FAILED"})
    log.take(batch(names, [0.4, 0.4, 0.4], model_latency_us=[100] * 3), shadow, failed)
    settings = ServiceSettings(service="serving", service_token="a-token-for-tests")
    add = predictions_pb2_grpc.add_PredictionLogServiceServicer_to_server
    api = PredictionLogApi(log.use, log.comparing)
    with (
        ServiceServer(settings, [(add, api)]) as server,
        open_channel(server.address, settings) as channel,
    ):
        stub = predictions_pb2_grpc.PredictionLogServiceStub(channel)
        request = predictions_pb2.CompareShadowsRequest(endpoint="endpoints/late")
        answer = stub.CompareShadows(request)
        request.threshold = 0.7
        other = stub.CompareShadows(request)
        request.start_time.CopyFrom(Timestamp(seconds=2**50))
        with pytest.raises(DomainError) as caught, calling("serving"):
            stub.CompareShadows(request)
    (found,) = answer.comparisons
    assert (found.variant, found.model_version) == ("v2", V2)
    assert (found.answered_variant, found.answered_version) == ("v1", V1)
    assert (found.rows, found.class_agreement, found.exact_agreement) == (2, 0.5, 0.5)
    assert other.comparisons[0].class_agreement == 1.0
    assert found.mean_difference == pytest.approx(0.1)
    assert found.mean_difference_lower < 0.1 < found.mean_difference_upper
    assert found.rmse == pytest.approx(0.2 / 2**0.5)
    assert not found.HasField("pearson")
    assert not found.HasField("spearman")
    assert (found.failures, dict(found.failure_reasons)) == (1, {"MODEL_FAILED": 1})
    assert (found.latency.p50_us, found.answered_latency.mean_us) == (400, 100)
    assert answer.end_time.ToDatetime(UTC) - answer.start_time.ToDatetime(UTC) == timedelta(days=1)
    assert not answer.truncated
    assert (caught.value.reason, caught.value.field) == ("INVALID_FORMAT", "start_time")
