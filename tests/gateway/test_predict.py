"""Predictions end to end: REST in, fake store and replicas behind, events out."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from typing import Any

import pytest
from modelyard.events.v1 import events_pb2

from gateway.dataplane.assignment import bucket
from tests.gateway import tables
from tests.gateway.conftest import Suite
from tests.gateway.fakes import Rows

GOOD = {"carrier": "UA", "origin": "JFK", "distance": 100}
PREDICT = "/v1/endpoints/late:predict"


def total(rows: Rows) -> Rows:
    """The sum of a row, with 1000 for each missing value."""
    return [[sum(1000.0 if math.isnan(v) else v for v in row)] for row in rows]


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
    (batch,) = late.logged("predictions", events_pb2.PredictionBatch)
    assert batch.event_times_us[0] == 1_367_402_400_000_000


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
    batches = late.logged("predictions", events_pb2.PredictionBatch)
    assert [prediction for batch in batches for prediction in batch.prediction_ids] == ids
    batch = batches[0]
    assert (batch.endpoint, batch.variant) == ("endpoints/late", "v1")
    assert (batch.model_version, batch.table_generation) == ("models/m/versions/1", 3)
    assert batch.role == batch.ROLE_PRIMARY
    assert batch.scores[0] == 1111.5
    assert batch.latencies_us[0] > 0
    assert abs(batch.event_times_us[0] / 1e6 - time.time()) < 60
    assert list(batch.unit_ids) == list(batch.prediction_ids)
    assert list(batch.fallbacks) == []
    columns = {column.name: column for column in batch.inputs}
    assert set(columns) == {"mean_delay", "wind", "distance", "hour", "carrier", "origin"}
    assert columns["mean_delay"].doubles.values[0] == 10
    assert columns["mean_delay"].event_times_us[0] == 1_000
    assert math.isnan(columns["hour"].doubles.values[0])
    assert columns["carrier"].strings.values[0] == "UA"
    assert columns["origin"].strings.values[0] == "JFK"


def split(suite: Suite, *variants: Any, replicas: dict[str, str], **fields: Any) -> None:
    suite.push(tables.route("ab", *variants, **fields), **replicas)


def ask(suite: Suite, count: int = 1, **more: Any) -> list[dict[str, Any]]:
    body = {"instances": [{"x0": i, "x1": 1, **more} for i in range(count)]}
    answer = suite.post("/v1/endpoints/ab:predict", body)
    assert answer.status_code == 200, answer.text
    return list(answer.json()["predictions"])


def const(value: float) -> Any:
    return lambda rows: [[value] for _ in rows]


def test_the_split_is_sticky_and_as_the_weights_say(suite: Suite) -> None:
    one, two = suite.replica(const(1)), suite.replica(const(2))
    split(
        suite,
        tables.variant("v1", 7_000),
        tables.variant("v2", 3_000),
        replicas={"v1": one.address, "v2": two.address},
        routing_key="user",
        overrides={"boss": "v2"},
    )
    body = {"instances": [{"x0": 1, "x1": 1, "user": f"u{i}"} for i in range(500)]}
    first, second = (
        [
            each["variant"]
            for each in suite.post("/v1/endpoints/ab:predict", body).json()["predictions"]
        ]
        for _ in range(2)
    )
    assert first == second
    assert first == ["v1" if bucket("s", f"u{i}") < 7_000 else "v2" for i in range(500)]
    assert 300 < Counter(first)["v1"] < 400
    assert ask(suite, user="boss")[0]["variant"] == "v2"
    assert ask(suite, user=5)[0]["variant"] == ask(suite, user="5")[0]["variant"]
    batches = suite.logged("predictions", events_pb2.PredictionBatch, 2)
    assert {batch.variant for batch in batches} == {"v1", "v2"}
    for wrong, reason in ((None, "FIELD_MISSING"), (1.5, "WRONG_TYPE")):
        problem = suite.post(
            "/v1/endpoints/ab:predict", {"instances": [{"x0": 1, "x1": 1, "user": wrong}]}
        ).json()
        assert problem["reason"] == reason
        assert problem["violations"][0]["field"] == "instances[0].user"


def test_a_failing_variant_falls_back_to_the_champion(suite: Suite) -> None:
    one, two = suite.replica(const(1)), suite.replica(const(2))
    two.error = "MODEL_FAILED"
    split(
        suite,
        tables.variant("v1", 0),
        tables.variant("v2", 10_000),
        replicas={"v1": one.address, "v2": two.address},
    )
    (prediction,) = ask(suite)
    assert (prediction["outputs"], prediction["variant"]) == ({"y": 1.0}, "v1")
    assert prediction["fallback"] == "champion"
    (batch,) = suite.logged("predictions", events_pb2.PredictionBatch)
    assert (batch.variant, list(batch.fallbacks)) == ("v1", ["champion"])


@pytest.mark.parametrize("raw", [b"", b"1234567", b"\x00\x00\xc0\x7f"])
def test_senseless_outputs_are_failures(suite: Suite, raw: bytes) -> None:
    one = suite.replica(const(1))
    one.raw = raw
    split(
        suite,
        tables.variant("v1", 10_000),
        replicas={"v1": one.address},
        default_outputs=[0.5],
    )
    (prediction,) = ask(suite)
    assert (prediction["outputs"], prediction["fallback"]) == ({"y": 0.5}, "default")
    assert (prediction["variant"], prediction["model_version"]) == ("", "")
    (batch,) = suite.logged("predictions", events_pb2.PredictionBatch)
    assert list(batch.fallbacks) == ["default"]


def test_nobody_and_nothing_to_answer(suite: Suite) -> None:
    split(suite, tables.variant("v1", 10_000), replicas={})
    answer = suite.post("/v1/endpoints/ab:predict", {"instances": [{"x0": 1, "x1": 1}]})
    assert (answer.status_code, answer.json()["reason"]) == (503, "NO_ANSWER")
    assert answer.json()["metadata"]["cause"] == "NO_REPLICA"
    assert answer.headers["retry-after"] == "1"
    assert suite.events == []


def test_too_slow_is_a_deadline(suite: Suite) -> None:
    slow = suite.replica(const(1), delay=1.0)
    split(suite, tables.variant("v1", 10_000), replicas={"v1": slow.address}, deadline_ms=100)
    began = time.monotonic()
    answer = suite.post("/v1/endpoints/ab:predict", {"instances": [{"x0": 1, "x1": 1}]})
    assert time.monotonic() - began < 0.5
    assert (answer.status_code, answer.json()["reason"]) == (504, "DEADLINE_EXCEEDED")


def test_a_store_that_is_away_uses_the_default(suite: Suite) -> None:
    replica = suite.replica(total)
    suite.push(
        tables.route(
            "late",
            tables.variant("v1", 10_000, of=tables.signature()),
            default_outputs=[0.25],
        ),
        v1=replica.address,
    )
    suite.features.away = True
    (prediction,) = suite.post(PREDICT, {"instances": [GOOD]}).json()["predictions"]
    assert (prediction["outputs"], prediction["fallback"]) == ({"late": 0.25}, "default")


def test_load_is_shed_beyond_the_limit(suite: Suite) -> None:
    slow = suite.replica(const(1), delay=0.1)
    split(suite, tables.variant("v1", 10_000), replicas={"v1": slow.address}, max_in_flight=2)

    async def burst() -> list[int]:
        headers = {"authorization": f"Bearer {suite.key}"}
        body = {"instances": [{"x0": 1, "x1": 1}]}
        asks = (
            suite.client.post("/v1/endpoints/ab:predict", json=body, headers=headers)
            for _ in range(6)
        )
        return [answer.status_code for answer in await asyncio.gather(*asks)]

    assert Counter(suite.run(burst())) == {200: 2, 503: 4}


def test_a_shadow_scores_after_the_answer_and_slows_nothing(suite: Suite) -> None:
    one, two = suite.replica(const(1)), suite.replica(const(2), delay=0.3)
    split(
        suite,
        tables.variant("v1", 10_000),
        tables.variant("v2", 0, shadow=10_000),
        replicas={"v1": one.address, "v2": two.address},
    )
    began = time.monotonic()
    (prediction,) = ask(suite)
    assert time.monotonic() - began < 0.25
    suite.settle()
    batches = suite.logged("predictions", events_pb2.PredictionBatch, 2)
    roles = {batch.variant: batch.role for batch in batches}
    kinds = events_pb2.PredictionBatch
    assert roles == {"v1": kinds.ROLE_PRIMARY, "v2": kinds.ROLE_SHADOW}
    assert {tuple(batch.prediction_ids) for batch in batches} == {(prediction["prediction_id"],)}
    assert [list(batch.scores) for batch in batches] == [[1.0], [2.0]]


def test_a_shadow_takes_its_share(suite: Suite) -> None:
    one, two = suite.replica(const(1)), suite.replica(const(2))
    split(
        suite,
        tables.variant("v1", 10_000),
        tables.variant("v2", 0, shadow=2_500),
        replicas={"v1": one.address, "v2": two.address},
    )
    ask(suite, 1000)
    suite.settle()
    batches = suite.logged("predictions", events_pb2.PredictionBatch, 2)
    assert 180 < sum(len(b.scores) for b in batches if b.variant == "v2") < 320


PAIR = {"experiment": "experiments/e", "arms": ["v1", "v2"]}


def test_in_a_paired_experiment_both_arms_score_every_request(suite: Suite) -> None:
    one, two = suite.replica(const(1)), suite.replica(const(2))
    split(
        suite,
        tables.variant("v1", 5_000),
        tables.variant("v2", 5_000, shadow=10_000),
        replicas={"v1": one.address, "v2": two.address},
        paired=True,
        **PAIR,
    )
    predictions = ask(suite, 40)
    suite.settle()
    (batch,) = suite.logged("exposures", events_pb2.ExposureBatch)
    assert (batch.experiment, list(batch.arms)) == ("experiments/e", ["v1", "v2"])
    assigned = dict(zip(batch.prediction_ids, batch.assigned, strict=True))
    assert assigned == {p["prediction_id"]: int(p["variant"] == "v2") for p in predictions}
    assert set(batch.assigned) == {0, 1}
    assert list(batch.scores) == [1.0, 2.0] * 40
    assert all(latency > 0 for latency in batch.latencies_us)
    assert batch.errors == bytes(80)
    logged = suite.logged("predictions", events_pb2.PredictionBatch, 4)
    rows = Counter()
    for each in logged:
        rows[each.variant, each.role] += len(each.scores)
    assert rows["v1", 1] + rows["v1", 2] == rows["v2", 1] + rows["v2", 2] == 40


def test_in_an_unpaired_experiment_only_the_assigned_arm_scores(suite: Suite) -> None:
    one, two = suite.replica(const(1)), suite.replica(const(2))
    split(
        suite,
        tables.variant("v1", 5_000),
        tables.variant("v2", 5_000),
        replicas={"v1": one.address, "v2": two.address},
        **PAIR,
    )
    ask(suite, 20)
    (batch,) = suite.logged("exposures", events_pb2.ExposureBatch)
    for row, arm in enumerate(batch.assigned):
        scores = batch.scores[2 * row : 2 * row + 2]
        assert scores[arm] == arm + 1
        assert math.isnan(scores[1 - arm])
        assert batch.latencies_us[2 * row + 1 - arm] == 0


def test_a_failing_arm_is_an_error_of_that_arm(suite: Suite) -> None:
    one, two = suite.replica(const(1)), suite.replica(const(2))
    two.error = "MODEL_FAILED"
    split(
        suite,
        tables.variant("v1", 5_000),
        tables.variant("v2", 5_000),
        replicas={"v1": one.address, "v2": two.address},
        paired=True,
        **PAIR,
    )
    predictions = ask(suite, 20)
    assert {p["variant"] for p in predictions} == {"v1"}
    (batch,) = suite.logged("exposures", events_pb2.ExposureBatch)
    assert batch.errors == bytes([0, 1] * 20)
    assert set(batch.assigned) == {0, 1}
    assert list(batch.scores[::2]) == [1.0] * 20
    assert all(math.isnan(score) for score in batch.scores[1::2])


def test_paired_arms_reuse_the_features_that_were_read(suite: Suite) -> None:
    one, two = suite.replica(total), suite.replica(total)
    suite.push(
        tables.route(
            "late",
            tables.variant("v1", 10_000, of=tables.signature()),
            tables.variant("v2", 0, of=tables.signature()),
            paired=True,
            **PAIR,
        ),
        v1=one.address,
        v2=two.address,
    )
    suite.post(PREDICT, {"instances": [GOOD]})
    (batch,) = suite.logged("exposures", events_pb2.ExposureBatch)
    assert list(batch.scores) == [1111.5, 1111.5]
    assert len(suite.features.asks) == 1


def test_changing_the_table_under_load_fails_nothing(suite: Suite) -> None:
    one, two = suite.replica(const(1)), suite.replica(const(2))
    replicas = {"v1": one.address, "v2": two.address}
    split(suite, tables.variant("v1", 10_000), replicas={"v1": one.address})

    async def load(answers: list[Any]) -> None:
        headers = {"authorization": f"Bearer {suite.key}"}
        body = {"instances": [{"x0": 1, "x1": 1}]}
        while not answers or answers[-1] is not None:
            answer = await suite.client.post("/v1/endpoints/ab:predict", json=body, headers=headers)
            assert answer.status_code == 200
            answers.append(answer.json())

    async def change() -> Counter[Any]:
        answers: list[Any] = []
        work = asyncio.create_task(load(answers))
        for generation in range(10, 30):
            suite.revision += 1
            weight = 10_000 * (generation % 2)
            table = tables.route(
                "ab",
                tables.variant("v1", weight),
                tables.variant("v2", 10_000 - weight),
                generation=generation,
            )
            suite.data_plane.push(tables.state(suite.revision, table, **replicas))
            await asyncio.sleep(0.02)
        answers.append(None)
        await asyncio.sleep(0.05)
        work.cancel()
        return Counter(
            (
                each["table_generation"],
                each["predictions"][0]["variant"],
                each["predictions"][0]["fallback"],
            )
            for each in answers
            if each
        )

    seen = suite.run(change())
    assert len(seen) > 10
    for generation, variant, fallback in seen:
        assert fallback == ""
        expected = "v1" if int(generation) % 2 or generation == "3" else "v2"
        assert variant == expected


def test_a_table_that_makes_no_sense_is_refused(suite: Suite) -> None:
    one = suite.replica(const(1))
    split(suite, tables.variant("v1", 10_000), replicas={"v1": one.address})
    before = suite.gateway.plane.state.revision
    bad = tables.state(99, tables.route("ab", tables.variant("v1", 9_000)), v1=one.address)
    suite.data_plane.push(bad)
    split(suite, tables.variant("v1", 10_000), replicas={"v1": one.address})
    assert suite.gateway.plane.state.revision == before + 1
    assert ask(suite)[0]["variant"] == "v1"


def test_the_last_state_stays_when_serving_is_away(suite: Suite) -> None:
    one = suite.replica(const(1))
    split(suite, tables.variant("v1", 10_000), replicas={"v1": one.address})
    suite.data_plane.hang_up()
    suite.until(lambda: not suite.gateway.watcher.watching)
    assert ask(suite)[0]["outputs"] == {"y": 1.0}
    split(suite, tables.variant("v1", 10_000), replicas={"v1": one.address})
    assert suite.gateway.watcher.watching


def test_predictions_go_on_without_the_streams_and_are_logged_later(suite: Suite) -> None:
    one = suite.replica(const(1))
    split(suite, tables.variant("v1", 10_000), replicas={"v1": one.address})
    suite.streams_away = True
    ids = [ask(suite)[0]["prediction_id"] for _ in range(20)]
    suite.run(asyncio.sleep(0.2))
    assert suite.events == []
    suite.streams_away = False
    suite.settle()
    batches = suite.logged("predictions", events_pb2.PredictionBatch)
    assert sorted(p for b in batches for p in b.prediction_ids) == sorted(ids)
