"""Answers that are kept: bounded, of each version, and never another than the model's own."""

from __future__ import annotations

import functools
import struct
import tracemalloc
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from inference import grpc_predict_v2_pb2 as v2
from inference import grpc_predict_v2_pb2_grpc
from modelyard.dataplane.v1 import dataplane_pb2
from modelyard.events.v1 import events_pb2

from gateway.dataplane.cache import AnswerCache, Entry
from gateway.dataplane.routing import Route, compile_state
from gateway.hotlane.protocol import HotLaneProtocol
from service_kit.metrics import REGISTRY
from tests.gateway import tables
from tests.gateway.asking import GOOD
from tests.gateway.conftest import Suite
from tests.gateway.fakes import Rows, const, total
from tests.gateway.sockets import Served
from tests.gateway.test_hotlane import request
from tests.gateway.test_v2 import rpc, tensor

PREDICT, INFER = "/v1/endpoints/kept:predict", "/v2/models/kept/infer"
MANY = 10**9


def compiled(cache_rows: int, versions: int = 2) -> Route:
    weight = 10_000 // versions
    variants = [tables.variant(f"v{n + 1}", weight) for n in range(versions)]
    message = tables.state(1, tables.route("e", *variants, cache_rows=cache_rows))
    return compile_state(message).routes["e"]


def asked(cache: AnswerCache, route: Route, version: int, rows: list[int]) -> list[bool]:
    """Ask for rows as the data plane does; gives which came from the cache."""
    variant = route.variants[version]
    matrix = struct.pack(f"<{2 * len(rows)}f", *(x for row in rows for x in (row, 1)))
    look = cache.look(route, variant, matrix)
    scored = struct.iter_unpack("<2f", look.missing)
    known = look.complete([(100.0 * version + x,) for x, _ in scored], 250)
    assert known.outputs == [(100.0 * version + row,) for row in rows]
    assert known.took_us == 250
    return known.cached


calls = st.lists(
    st.tuples(st.integers(0, 1), st.lists(st.integers(0, 9), min_size=1, max_size=5)), max_size=40
)


@given(calls=calls, most=st.integers(1, 8))
def test_a_version_keeps_the_rows_asked_for_last(
    calls: list[tuple[int, list[int]]], most: int
) -> None:
    cache, route = AnswerCache(MANY), compiled(most)
    kept: list[OrderedDict[int, None]] = [OrderedDict(), OrderedDict()]
    for version, rows in calls:
        known = kept[version]
        hits = [row in known for row in rows]
        assert asked(cache, route, version, rows) == hits
        for row, hit in zip(rows, hits, strict=True):
            if hit:
                known.move_to_end(row)
        for row, hit in zip(rows, hits, strict=True):
            if not hit and row not in known:
                known[row] = None
                if len(known) > most:
                    known.popitem(last=False)
        assert cache.rows() == len(kept[0]) + len(kept[1])


@given(calls=calls, most_bytes=st.integers(0, 3_000))
def test_bytes_are_bounded_over_all_versions(
    calls: list[tuple[int, list[int]]], most_bytes: int
) -> None:
    cache, route = AnswerCache(most_bytes), compiled(100)
    for version, rows in calls:
        asked(cache, route, version, rows)
        assert cache._bytes <= most_bytes
    assert cache._bytes == sum(version.bytes for version in cache._versions.values())
    cache.keep_only(())
    assert (cache.rows(), cache._bytes) == (0, 0)


@pytest.mark.parametrize("outputs", [1, 5])
def test_the_estimate_of_bytes_is_an_upper_one(outputs: int) -> None:
    cache = AnswerCache(MANY)
    tracemalloc.start()
    try:
        for n in range(20_000):
            values = tuple(n + at / 7 for at in range(outputs))
            cache.put("m", struct.pack("<30f", *[n] * 30), Entry(values, 1_000 + n), 100_000)
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 0.5 * cache._bytes < taken <= cache._bytes


class Counting:
    """A model that notes the rows that it scored."""

    def __init__(self, add: float = 0.0) -> None:
        self.rows: Rows = []
        self.add = add

    def __call__(self, rows: Rows) -> Rows:
        self.rows += rows
        return [[sum(row) + self.add] for row in rows]


def keep(suite: Suite, *variants: dataplane_pb2.RouteVariant, **fields: Any) -> list[Counting]:
    """An endpoint `kept` that keeps answers, with versions 1 and 2."""
    models = [Counting(), Counting(1000)]
    addresses = {f"v{n + 1}": suite.replica(model).address for n, model in enumerate(models)}
    # The cache of this gateway may know these versions from another test.
    suite.gateway.plane.cache.keep_only(())
    suite.push(tables.route("kept", *variants, **{"cache_rows": 100} | fields), **addresses)
    return models


def predict(suite: Suite, *rows: int, **more: Any) -> list[dict[str, Any]]:
    body = {"instances": [{"x0": row, "x1": 1} for row in rows]}
    answer = suite.post(PREDICT, body, **more)
    assert answer.status_code == 200, answer.text
    return list(answer.json()["predictions"])


ALL = tables.variant("v1", 10_000)


def hits(result: str) -> float:
    labels = {"endpoint": "endpoints/kept", "result": result}
    return REGISTRY.get_sample_value("modelyard_cache_rows_total", labels) or 0.0


def test_a_row_is_scored_once_and_each_prediction_is_its_own(suite: Suite) -> None:
    (model, _) = keep(suite, ALL)
    before = hits("hit"), hits("miss")
    first, second = predict(suite, 1, 2), predict(suite, 2, 3, 1)
    assert model.rows == [[1, 1], [2, 1], [3, 1]]
    assert [each["cached"] for each in first + second] == [False, False, True, False, True]
    assert [each["outputs"]["y"] for each in first + second] == [2, 3, 3, 4, 2]
    assert len({each["prediction_id"] for each in first + second}) == 5
    assert (hits("hit") - before[0], hits("miss") - before[1]) == (2, 3)
    suite.settle()
    logged: dict[str, tuple[float, bool]] = {}
    for batch in suite.predictions():
        assert batch["input.x1"] == [1.0] * len(batch["score"])
        told = zip(batch["score"], batch["cached"], strict=True)
        logged |= zip(batch["prediction_id"], told, strict=True)
    assert logged == {
        each["prediction_id"]: (each["outputs"]["y"], each["cached"]) for each in first + second
    }


def test_every_protocol_says_what_was_kept(suite: Suite) -> None:
    keep(suite, ALL)
    predict(suite, 5)
    columns = [tensor("x0", "FP64", [5, 6]), tensor("x1", "FP64", [1, 1])]
    told = suite.post(INFER, {"inputs": columns}).json()["parameters"]
    assert told["cached"] == "true,false"
    matrix = {"inputs": [tensor("features", "FP32", [5, 1, 6, 1], [2, 2])]}
    assert suite.post(INFER, matrix).json()["parameters"]["cached"] == "true"
    message = v2.ModelInferRequest(model_name="kept")
    entry = message.inputs.add(name="features", datatype="FP32", shape=[1, 2])
    entry.contents.fp32_contents.extend([7, 1])
    stub = grpc_predict_v2_pb2_grpc.GRPCInferenceServiceStub
    answer = rpc(suite, stub, "ModelInfer", message)
    assert answer.parameters["cached"].string_param == "false"
    (prediction,) = predict(suite, 7)
    assert prediction["cached"] is True


def test_without_being_asked_nothing_is_kept_nor_said(suite: Suite) -> None:
    (model, _) = keep(suite, ALL, cache_rows=0)
    both = predict(suite, 1) + predict(suite, 1)
    assert len(model.rows) == 2
    assert all("cached" not in each for each in both)
    answer = suite.post(INFER, {"inputs": [tensor("features", "FP32", [5, 1], [1, 2])]})
    assert "cached" not in answer.json()["parameters"]
    suite.settle()
    for batch in suite.predictions():
        assert "cached" not in batch.columns


def test_an_answer_is_that_of_its_version_whatever_the_table_says(suite: Suite) -> None:
    keep(suite, ALL, tables.variant("v2", 0))
    addresses = {f"v{n + 1}": suite.replicas[n - 2].address for n in range(2)}
    assert predict(suite, 1)[0]["outputs"]["y"] == 2
    other = (tables.variant("v1", 0), tables.variant("v2", 10_000))
    suite.push(tables.route("kept", *other, cache_rows=100, generation=2), **addresses)
    (fresh,) = predict(suite, 1)
    assert (fresh["outputs"]["y"], fresh["variant"], fresh["cached"]) == (1002, "v2", False)
    suite.push(tables.route("kept", ALL, cache_rows=100, generation=3), **addresses)
    (back,) = predict(suite, 1)
    assert (back["outputs"]["y"], back["variant"], back["cached"]) == (2, "v1", True)
    suite.push(tables.route("kept", ALL, cache_rows=100, generation=4), v1=addresses["v1"])
    cache = suite.gateway.plane.cache
    assert set(cache._versions) == {"models/m/versions/1"}, "version 2 is not loaded any more"


def test_fallbacks_and_failures_are_not_kept(suite: Suite) -> None:
    v1, sick = suite.replica(Counting()), suite.replica(const(9))
    sick.error = "MODEL_FAILED"
    suite.gateway.plane.cache.keep_only(())
    shares = (tables.variant("v1", 0), tables.variant("v2", 10_000))
    route = tables.route("kept", *shares, cache_rows=100, default_outputs=[0.5])
    suite.push(route, v1=v1.address, v2=sick.address)
    for _ in range(2):
        (prediction,) = predict(suite, 1)
        found = prediction["fallback"], prediction["outputs"]["y"], prediction["cached"]
        assert found == ("champion", 2, False)
    assert len(v1.model.rows) == 2
    v1.error = "MODEL_FAILED"
    assert predict(suite, 1)[0]["fallback"] == "default"
    assert suite.gateway.plane.cache.rows() == 0
    sick.error = v1.error = ""
    assert [predict(suite, 1)[0]["cached"] for _ in range(2)] == [False, True]


def test_a_version_without_a_replica_still_says_what_it_has_said(suite: Suite) -> None:
    keep(suite, ALL)
    predict(suite, 1)
    suite.run(suite.replicas[-2].stop())
    suite.until(lambda: not suite.gateway.plane.ready("kept"))
    assert predict(suite, 1)[0]["cached"] is True
    body = {"instances": [{"x0": 2, "x1": 1}]}
    assert suite.post(PREDICT, body).json()["reason"] == "NO_ANSWER"


def test_features_that_changed_are_other_inputs(
    suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica = suite.replica(total)
    suite.gateway.plane.cache.keep_only(())
    v1 = tables.variant("v1", 10_000, of=tables.signature())
    suite.push(tables.route("late", v1, cache_rows=10), v1=replica.address)

    def ask() -> tuple[bool, float]:
        (found,) = suite.post("/v1/endpoints/late:predict", {"instances": [GOOD]}).json()[
            "predictions"
        ]
        return found["cached"], found["outputs"]["late"]

    first, again = ask(), ask()
    assert (first[0], again[0], first[1]) == (False, True, again[1])
    monkeypatch.setitem(suite.features.DELAYS, "UA", 11.0)
    assert ask() == (False, first[1] + 1)


def test_a_kept_answer_does_not_make_its_model_look_quick_and_shadows_score_anew(
    suite: Suite,
) -> None:
    shadow = tables.variant("v2", 0, shadow=10_000)
    _, second = keep(suite, ALL, shadow, experiment="experiments/e", arms=["v1", "v2"], paired=True)
    for _ in range(2):
        predict(suite, 1)
    suite.settle()
    for batch in suite.logged("exposures", events_pb2.ExposureBatch):
        assert set(batch.latencies_us) == {250}
    assert len(second.rows) == 2


@pytest.fixture(scope="module")
def served(module_suite: Suite) -> Iterator[Served]:
    """The same models behind an endpoint that keeps answers and behind one that does not."""
    made = Served(module_suite)
    lane = functools.partial(HotLaneProtocol, module_suite.gateway.lane, 5.0)
    module_suite.run(made.start("lane", lane))
    module_suite.run(made.start("plain", "httptools"))
    yield made
    module_suite.run(made.stop())


@pytest.fixture
def twins(served: Served) -> Served:
    suite = served.suite
    one, two = suite.replica(Counting()), suite.replica(Counting(1000))
    suite.gateway.plane.cache.keep_only(())
    shares = (tables.variant("v1", 5_000), tables.variant("v2", 5_000))
    suite.push(
        tables.route("on", *shares, routing_key="user", cache_rows=12),
        tables.route("off", *shares, routing_key="user"),
        v1=one.address,
        v2=two.address,
    )
    return served


number = st.sampled_from([0, 0.0, -0.0, 1, 1.0, 2, 0.1, 1e30, 3.5])
row = st.tuples(number, number, st.sampled_from(["ann", "bob", "cleo", "dave"]))
asks = st.lists(
    st.tuples(st.sampled_from(["lane", "plain"]), st.lists(row, min_size=1, max_size=6)),
    min_size=1,
    max_size=8,
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(asks=asks)
def test_with_the_cache_the_answers_are_those_without(
    twins: Served, asks: list[tuple[str, list[Any]]]
) -> None:
    for way, rows in asks:
        body = orjson.dumps({"instances": [{"x0": x, "x1": y, "user": u} for x, y, u in rows]})
        found = {}
        before = twins.ordinary
        for endpoint in ("on", "off"):
            data = request(twins.suite, f"/v1/endpoints/{endpoint}:predict", body)
            ((status, _, answer),) = twins.ask(way, data)
            assert status == 200
            predictions = orjson.loads(answer)["predictions"]
            found[endpoint] = [
                (each["outputs"], each["variant"], each["model_version"], each["fallback"])
                for each in predictions
            ]
        assert found["on"] == found["off"]
        assert twins.ordinary == before + (2 if way == "plain" else 0)


def test_the_lane_answers_from_the_cache(twins: Served) -> None:
    suite, body = twins.suite, orjson.dumps({"instances": [{"x0": 4, "x1": 4, "user": "ann"}]})
    data = request(suite, "/v1/endpoints/on:predict", body)
    before = twins.ordinary
    answers = [orjson.loads(twins.ask("lane", data)[0][2])["predictions"][0] for _ in range(3)]
    assert [each["cached"] for each in answers] == [False, True, True]
    assert len({each["prediction_id"] for each in answers}) == 3
    pipelined = twins.ask("lane", data * 5, answers=5)
    assert [orjson.loads(each[2])["predictions"][0]["cached"] for each in pipelined] == [True] * 5
    assert twins.ordinary <= before + 4, "only what was pipelined may go the ordinary way"
