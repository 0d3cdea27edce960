"""Predictions end to end: REST in, fake store and replicas behind, events out."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from tests.gateway import tables
from tests.gateway.asking import GOOD, PREDICT
from tests.gateway.conftest import Suite
from tests.gateway.fakes import total


@pytest.fixture
def late(suite: Suite) -> Suite:
    """The endpoint `late` with one version."""
    replica = suite.replica(total)
    suite.push(
        tables.route("late", tables.variant("v1", 10_000, of=tables.signature())),
        v1=replica.address,
    )
    return suite


def test_entity_keys_in_answer_out(late: Suite) -> None:
    answer = late.post(PREDICT, {"instances": [GOOD, {**GOOD, "carrier": "ZZZ", "hour": 7}]})
    assert answer.status_code == 404  # the second carrier is unknown
    late.features.asks.clear()
    answer = late.post(PREDICT, {"instances": [GOOD, {**GOOD, "carrier": "AA", "hour": 7}]})
    assert answer.status_code == 200, answer.text
    first, second = answer.json()["predictions"]
    # mean_delay + wind + distance + (hour missing) + code of the carrier
    assert first["outputs"] == {"late": 10 + 1.5 + 100 + 1000 + 0}
    assert second["outputs"] == {"late": 20 + 1.5 + 100 + 7 + 1}
    assert (first["variant"], first["model_version"]) == ("v1", "models/m/versions/1")
    assert first["fallback"] == ""
    assert first["prediction_id"] < second["prediction_id"]
    assert (answer.json()["endpoint"], answer.json()["table_generation"]) == ("endpoints/late", "3")
    assert len(late.features.asks) == 1


def test_an_unknown_category_is_minus_one_and_features_come_back(late: Suite) -> None:
    late.features.DELAYS["XX"] = 30.0
    body = {"instances": [{**GOOD, "carrier": "XX", "origin": "NUL"}], "return_features": True}
    (prediction,) = late.post(PREDICT, body).json()["predictions"]
    assert prediction["outputs"] == {"late": 30 + 1000 + 100 + 1000 - 1}
    assert prediction["features"] == {
        "mean_delay": 30.0,
        "wind": None,
        "distance": 100,
        "hour": None,
        "carrier": "XX",
        "origin": "NUL",
    }


def test_event_times_are_the_reference_of_the_store(late: Suite) -> None:
    times = ["2013-05-01T10:00:00Z", "2013-05-01T12:00:00+02:00", "2013-05-02T00:00:00.5Z"]
    body = {"instances": [GOOD, {**GOOD, "carrier": "AA"}, GOOD], "event_times": times}
    answer = late.post(PREDICT, body)
    scores = [each["outputs"]["late"] for each in answer.json()["predictions"]]
    assert scores == [1111.5, 1122.5, 1111.5]
    (ask,) = late.features.asks
    morning, midnight = 1_367_402_400_000_000, 1_367_452_800_500_000
    assert list(ask.as_of_us) == [morning, morning, midnight]
    (batch,) = late.predictions()
    assert batch["event_time"][0] == 1_367_402_400_000_000


def test_concurrent_requests_share_reads_and_messages(suite: Suite) -> None:
    replica = suite.replica(total, delay=0.02)
    suite.push(
        tables.route("late", tables.variant("v1", 10_000, of=tables.signature())),
        v1=replica.address,
    )

    async def burst() -> list[Any]:
        headers = {"authorization": f"Bearer {suite.key}"}
        asks = (
            suite.client.post(PREDICT, json={"instances": [GOOD]}, headers=headers)
            for _ in range(100)
        )
        return await asyncio.gather(*asks)

    answers = suite.run(burst())
    assert {answer.status_code for answer in answers} == {200}
    ids = [answer.json()["predictions"][0]["prediction_id"] for answer in answers]
    assert len(set(ids)) == 100
    assert sum(replica.batches) == 100
    assert len(replica.batches) < 20
    assert len(suite.features.asks) < 40


@pytest.mark.parametrize(
    ("body", "status", "reason", "fields"),
    [
        ({}, 400, "WRONG_TYPE", ["instances"]),
        ([], 400, "WRONG_TYPE", []),
        ({"instances": []}, 400, "WRONG_COUNT", ["instances"]),
        ({"instances": [GOOD] * 1025}, 400, "WRONG_COUNT", ["instances"]),
        ({"instances": [5]}, 400, "WRONG_TYPE", ["instances[0]"]),
        ({"instances": [GOOD], "x": 1}, 400, "UNKNOWN_FIELD", ["x"]),
        ({"instances": [GOOD], "a<b": 1}, 400, "UNKNOWN_FIELD", ["?"]),
        ({"instances": [GOOD], "endpoint": "endpoints/b"}, 400, "CONFLICTING_FIELD", ["endpoint"]),
        ({"instances": [GOOD], "return_features": 1}, 400, "WRONG_TYPE", ["return_features"]),
        ({"instances": [GOOD], "event_times": ["x"]}, 400, "INVALID_FORMAT", ["event_times[0]"]),
        (
            {"instances": [GOOD], "event_times": ["2013-05-01T10:00:00"]},
            400,
            "INVALID_FORMAT",
            ["event_times[0]"],
        ),
        ({"instances": [GOOD], "event_times": [5]}, 400, "WRONG_TYPE", ["event_times[0]"]),
        (
            {"instances": [GOOD], "event_times": ["2013-05-01T10:00:00Z"] * 2},
            400,
            "WRONG_COUNT",
            ["event_times"],
        ),
        (
            {"instances": [{"origin": "JFK", "distance": 1}]},
            400,
            "FIELD_MISSING",
            ["instances[0].carrier"],
        ),
        (
            {"instances": [GOOD, {"carrier": 5.5, "origin": "", "distance": "x"}]},
            400,
            "WRONG_TYPE",
            [
                "instances[1].carrier",
                "instances[1].carrier",
                "instances[1].distance",
                "instances[1].origin",
            ],
        ),
        (
            {"instances": [{**GOOD, "distance": None}]},
            400,
            "FIELD_MISSING",
            ["instances[0].distance"],
        ),
        ({"instances": [{**GOOD, "distance": True}]}, 400, "WRONG_TYPE", ["instances[0].distance"]),
        (
            {"instances": [{**GOOD, "distance": 1e39}]},
            400,
            "OUT_OF_RANGE",
            ["instances[0].distance"],
        ),
        (
            {
                "instances": [GOOD, GOOD],
                "event_times": ["2013-06-03T12:00:00Z", "9999-01-01T00:00:00Z"],
            },
            400,
            "OUT_OF_RANGE",
            ["event_times[1]"],
        ),
        (
            {"instances": [GOOD], "event_times": ["0001-01-01T00:00:00Z"]},
            400,
            "OUT_OF_RANGE",
            ["event_times[0]"],
        ),
        ({"instances": [{**GOOD, "hour": "7"}]}, 400, "WRONG_TYPE", ["instances[0].hour"]),
        (
            {"instances": [{**GOOD, "mean_delay": 1}]},
            400,
            "UNKNOWN_FIELD",
            ["instances[0].mean_delay"],
        ),
        ({"instances": [{**GOOD, "<b>": 1}]}, 400, "UNKNOWN_FIELD", ["instances[0].?"]),
        ({"instances": [{**GOOD, "carrier": "x" * 600}]}, 400, "OUT_OF_RANGE", None),
        (
            {"instances": [GOOD, {**GOOD, "carrier": "ZZ"}]},
            404,
            "ENTITY_NOT_FOUND",
            ["instances[1].carrier"],
        ),
        (
            {"instances": [{**GOOD, "carrier": "NULL"}]},
            422,
            "FEATURE_MISSING",
            ["instances[0].mean_delay"],
        ),
    ],
)
def test_bad_input_is_refused_by_name(
    late: Suite, body: Any, status: int, reason: str, fields: list[str] | None
) -> None:
    answer = late.post(PREDICT, body)
    problem = answer.json()
    assert (answer.status_code, problem["reason"]) == (status, reason), problem
    if fields is not None:
        assert [each["field"] for each in problem["violations"]] == fields
    assert late.events == []


@pytest.mark.parametrize(
    ("content", "status", "reason"),
    [
        (b'{"instances": [{"carrier": NaN}]}', 400, "NOT_FINITE"),
        (b'{"instances": [{"distance": 1e999}]}', 400, "NOT_FINITE"),
        (b'{"instances": [{"carrier": "\\ud800"}]}', 400, "MALFORMED_JSON"),
        (b"[" * 5_000, 400, "MALFORMED_JSON"),
        (b"x" * 50_001, 413, "BODY_TOO_LARGE"),
    ],
)
def test_bodies_that_are_no_request(late: Suite, content: bytes, status: int, reason: str) -> None:
    answer = late.post(PREDICT, content=content)
    assert (answer.status_code, answer.json()["reason"]) == (status, reason)


def test_an_unknown_endpoint(late: Suite) -> None:
    answer = late.post("/v1/endpoints/nope:predict", {"instances": [GOOD]})
    assert (answer.status_code, answer.json()["reason"]) == (404, "ENDPOINT_NOT_FOUND")
    assert answer.json()["violations"][0]["field"] == "endpoint"


def test_predictions_are_logged_in_columns(late: Suite) -> None:
    ids = []
    for carrier in ("UA", "AA"):
        body = {"instances": [{**GOOD, "carrier": carrier}]}
        ids.append(late.post(PREDICT, body).json()["predictions"][0]["prediction_id"])
    late.settle()
    batches = late.predictions()
    assert [prediction for batch in batches for prediction in batch["prediction_id"]] == ids
    rows = batches[0]
    batch = rows.batch
    assert (batch.endpoint, batch.variant) == ("endpoints/late", "v1")
    assert (batch.model_version, batch.table_generation) == ("models/m/versions/1", 3)
    assert batch.role == batch.ROLE_PRIMARY
    assert rows["score"][0] == 1111.5
    assert rows["latency_us"][0] > 0
    assert abs(rows["event_time"][0] / 1e6 - time.time()) < 60
    assert not {"unit_id", "fallback"} & set(rows.columns)
    inputs = {name for name in rows.columns if name.startswith("input.")}
    names = ("mean_delay", "wind", "distance", "hour", "carrier", "origin")
    assert inputs == {f"input.{name}" for name in names}
    assert rows["input.mean_delay"][0] == 10
    assert rows["known.mean_delay"][0] == 1_000
    assert rows["input.hour"][0] is None
    assert rows["input.carrier"][0] == "UA"
    assert rows["input.origin"][0] == "JFK"


def test_without_frames_features_come_by_calls(late: Suite) -> None:
    def scores() -> list[float]:
        answer = late.post(PREDICT, {"instances": [GOOD, {**GOOD, "carrier": "AA"}]})
        return [each["outputs"]["late"] for each in answer.json()["predictions"]]

    before = scores()
    assert late.features.calls == 0
    late.frames.stop()
    late.until(lambda: not late.in_frames())
    assert scores() == before
    assert late.features.calls == 1
    late.restart_frames()
    late.until(late.in_frames)
    assert scores() == before
    assert late.features.calls == 1
    assert len(late.features.asks) == 3
