"""The lane for predictions: it answers as the ordinary way does, over real connections."""

from __future__ import annotations

import functools
import gc
import re
import struct
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.dataplane.assignment import bucket
from gateway.dataplane.direct import Pending
from gateway.hotlane.protocol import HotCycle, HotLaneProtocol
from service_kit.ids import uuid7_str
from tests.gateway import tables
from tests.gateway.conftest import Suite
from tests.gateway.sockets import Served

INFER = "/v2/models/sum/infer"
PREDICT = "/v1/endpoints/sum:predict"
ID = re.compile(rb"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}")

#: What is drawn anew for each request.
DRAWN = re.compile(rb'"(variant|model_version|trace_id)":"[^"]*"')

VARYING = frozenset(("content-length", "date", "x-request-id"))


def total(rows: list[list[float]]) -> list[list[float]]:
    return [[sum(row)] for row in rows]


@pytest.fixture(scope="module")
def served(module_suite: Suite) -> Iterator[Served]:
    made = Served(module_suite)
    lane = functools.partial(HotLaneProtocol, module_suite.gateway.lane, 0.3)
    module_suite.run(made.start("lane", lane))
    module_suite.run(made.start("plain", "httptools"))
    one, two = module_suite.replica(total), module_suite.replica(total)
    sick = module_suite.replica(total)
    sick.error = "MODEL_FAILED"
    signature = tables.plain_signature(3)
    module_suite.push(
        tables.route(
            "sum",
            tables.variant("v1", 5_000, of=signature),
            tables.variant("v2", 5_000, of=signature),
            routing_key="user",
        ),
        tables.route(
            "sick",
            tables.variant("v1", 0, of=signature),
            tables.variant("v3", 10_000, of=signature),
        ),
        v1=one.address,
        v2=two.address,
        v3=sick.address,
    )
    yield made
    module_suite.run(made.stop())


def request(suite: Suite, path: str, body: bytes, method: str = "POST", **headers: str) -> bytes:
    given = {
        "host": "x",
        "authorization": f"Bearer {suite.key}",
        "content-type": "application/json",
        "content-length": str(len(body)),
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in given.items() if value)
    return f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode("latin-1") + body


def matrix(*rows: list[Any], **more: Any) -> bytes:
    data = [value for row in rows for value in row]
    tensor = {"name": "features", "datatype": "FP32", "shape": [len(rows), 3], "data": data}
    return orjson.dumps({"inputs": [tensor | more]})


def instances(*rows: list[Any]) -> bytes:
    return orjson.dumps({"instances": [{f"x{i}": v for i, v in enumerate(row)} for row in rows]})


GOOD = [matrix([1, 2, 3]), matrix([1, 2.5, 3], [4, 5, 6]), instances([1, 2, 3], [4, 5, 6])]


def path_of(body: bytes) -> str:
    return PREDICT if b"instances" in body else INFER


@pytest.mark.parametrize("body", GOOD)
def test_good_requests_need_nothing_of_the_ordinary_way(served: Served, body: bytes) -> None:
    before = served.ordinary
    ((status, headers, answer),) = served.ask("lane", request(served.suite, path_of(body), body))
    assert (status, served.ordinary) == (200, before), answer
    assert headers["content-type"] == "application/json"
    assert headers["x-content-type-options"] == "nosniff"
    assert {"date", "x-request-id"} <= headers.keys()


numbers = st.one_of(
    st.floats(-1e6, 1e6, width=32),
    st.integers(-1_000, 1_000),
    st.sampled_from([1e39, None, True, "a", -0.0, 2**62, 3.4028234663852886e38]),
)
bodies = st.one_of(
    st.lists(st.lists(numbers, min_size=2, max_size=4), max_size=4).map(lambda r: matrix(*r)),
    st.lists(st.lists(numbers, min_size=2, max_size=4), max_size=4).map(lambda r: instances(*r)),
    st.sampled_from([b"", b"{", b"[]", b"null", matrix([1, 2, 3], name="x"), b'{"inputs": [NaN]}']),
    st.sampled_from([matrix([1, 2, 3], datatype="INT8"), matrix([1, 2, 3], shape=[3, 1])]),
)
heads = st.fixed_dictionaries(
    {},
    optional={
        "authorization": st.sampled_from(["", "Bearer myk_aaaaaaaa_" + "x" * 32, "Basic eA=="]),
        "content_type": st.sampled_from(
            ["", "text/plain", "application/json; charset=utf-8", "application/octet-stream"]
        ),
        "x_request_id": st.sampled_from(["mine", "not an id", "a" * 65]),
        "request_timeout": st.sampled_from(["1", "0", "x"]),
        "inference_header_content_length": st.sampled_from(["0", "10", "x"]),
        "connection": st.sampled_from(["close", "keep-alive"]),
        "expect": st.just("200-ok"),
        "traceparent": st.just("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        "padding": st.just("x" * 33_000),
        "x_routing_key": st.sampled_from(["", "ann", "bob", "x" * 513, "\xff", "Zo\xc3\xab"]),
    },
)
paths = st.sampled_from(
    [None, None, None, "/v2/models/none/infer", f"{INFER}?x=1", "/v2/models/sum/versions/1/infer"]
)


def comparable(answer: tuple[int, dict[str, str], bytes]) -> Any:
    status, headers, body = answer
    given = headers.get("x-request-id", "")
    headers = {name: value for name, value in headers.items() if name not in VARYING}
    fresh = ID.fullmatch(given.encode()) is not None
    body = re.sub(
        rb'"(variant|model_version|trace_id)": ?"[^"]*"', rb'"\1":""', ID.sub(b"ID", body)
    )
    return status, headers, "fresh" if fresh else given, body


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(body=bodies, head=heads, path=paths, cut=st.integers(1, 400))
def test_both_ways_answer_alike(
    served: Served, body: bytes, head: dict[str, str], path: str | None, cut: int
) -> None:
    data = request(served.suite, path or path_of(body), body, **head)
    found = [
        comparable(answer)
        for name in ("lane", "plain")
        for answer in served.ask(name, data[:cut], data[cut:])
    ]
    assert found[0] == found[1]


units = st.one_of(st.text(min_size=1, max_size=20), st.integers(-9, 10**12))
named = st.text(
    st.characters(codec="latin-1", exclude_categories=["Cc"]), min_size=1, max_size=20
).map(str.strip)


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    header=st.none() | named,
    parameter=st.none() | units,
    fields=st.none() | units,
    raw=st.booleans(),
)
def test_both_ways_send_a_unit_to_the_same_variant(
    served: Served, header: str | None, parameter: Any, fields: Any, raw: bool
) -> None:
    """By header, parameter and field, whichever are there, of a matrix and of instances."""
    head = {"x_routing_key": header or ""}
    keys = {"name": "user", "datatype": "BYTES", "shape": [2], "data": [str(fields)] * 2}
    document = orjson.loads(matrix([1, 2, 3], [4, 5, 6]))
    document["inputs"] += [] if fields is None else [keys]
    document["parameters"] = {} if parameter is None else {"routing_key": parameter}
    body, path = orjson.dumps(document), INFER
    if raw:
        more = {} if fields is None else {"user": fields}
        body = orjson.dumps({"instances": [{"x0": 1, "x1": 2, "x2": 3, **more}] * 2})
        path, parameter = PREDICT, None
    data = request(served.suite, path, body, **head)
    before = served.ordinary
    answers = {name: served.ask(name, data)[0] for name in ("lane", "plain")}
    assert comparable(answers["lane"]) == comparable(answers["plain"])
    if answers["lane"][0] == 200:
        assert served.ordinary == before + 1, "the lane had the other way answer"
    told_by = ((header or "").encode("latin-1").decode(errors="replace"), parameter, fields)
    unit = next((each for each in told_by if each not in (None, "")), None)
    if answers["lane"][0] == 200 and unit is not None:
        told = {re.search(rb'"variant":"(.*?)"', body).group(1) for *_, body in answers.values()}  # type: ignore[union-attr]
        assert told == {b"v1" if bucket("s", str(unit)) < 5_000 else b"v2"}


def test_pipelined_requests_are_answered_in_order(served: Served) -> None:
    suite = served.suite
    asked = [matrix([n, 0, 0]) for n in range(6)]
    stream = b"".join(request(suite, INFER, body) for body in asked[:3])
    stream += request(suite, "/v2/models/sum", b"", method="GET")
    stream += b"".join(request(suite, INFER, body) for body in asked[3:])
    answers = served.ask("lane", stream, answers=7)
    bodies = [orjson.loads(body) for _, _, body in answers]
    assert bodies[3]["platform"] == "modelyard"
    found = [body["outputs"][0]["data"][0] for body in bodies if "parameters" in body]
    assert found == [0, 1, 2, 3, 4, 5]


def test_one_connection_after_the_other_request(served: Served) -> None:
    suite = served.suite
    before = served.ordinary
    parts = [request(suite, INFER, matrix([n, 0, 0])) for n in range(4)]
    answers = served.ask("lane", *parts, answers=4, pause=0.02)
    assert [status for status, *_ in answers] == [200] * 4
    assert served.ordinary == before


def test_a_body_in_parts_stays_in_the_lane_and_one_that_stops_leaves_it(served: Served) -> None:
    data = request(served.suite, INFER, matrix([1, 2, 3]))
    before = served.ordinary
    ((status, *_),) = served.ask("lane", data[:-20], data[-20:], pause=0.05)
    assert (status, served.ordinary) == (200, before)
    ((status, *_),) = served.ask("lane", data[:-20], data[-20:], pause=0.4)
    assert (status, served.ordinary) == (200, before + 1)


def test_a_known_head_is_not_parsed_again(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[bytes] = []
    parse = HotLaneProtocol._parse

    def note(self: HotLaneProtocol, data: bytes) -> Any:
        parsed.append(data)
        return parse(self, data)

    monkeypatch.setattr(HotLaneProtocol, "_parse", note)
    suite = served.suite
    # Bodies of one length: the heads are the same bytes.
    first, second, third = (
        request(suite, INFER, matrix([1.5, 2, at]), accept="known/head") for at in (3, 4, 5)
    )
    before = served.ordinary
    answers = served.ask("lane", first, second, third, answers=3, pause=0.02)
    assert parsed == [first]
    assert [orjson.loads(body)["outputs"][0]["data"] for *_, body in answers] == [
        [6.5],
        [7.5],
        [8.5],
    ]
    # In parts, two at once, and something else on the same connection: all of it is parsed.
    at = second.index(b"\r\n\r\n") + 9
    other = request(suite, PREDICT, instances([4, 5, 6]))
    parts = (first, second[:at], second[at:], first + second, other, third)
    answers = served.ask("lane", *parts, answers=6, pause=0.02)
    assert [status for status, *_ in answers] == [200] * 6
    assert parsed == [first, second[:at], first + second, other]
    assert served.ordinary == before + 1  # the one that waited for another on its connection


def test_what_is_answered_is_forgotten(served: Served) -> None:
    data = request(served.suite, INFER, matrix([1, 2, 3]))
    gc.collect()
    gc.disable()  # what only the collector of cycles could take back counts as kept
    try:
        kept = [_cycles_after(served, data, requests) for requests in (1, 60)]
    finally:
        gc.enable()
    assert kept[1] <= kept[0] + 1


def _cycles_after(served: Served, data: bytes, requests: int) -> int:
    answers = served.ask("lane", *[data] * requests, answers=requests, pause=0.01)
    assert [status for status, *_ in answers] == [200] * requests
    return sum(isinstance(each, HotCycle | Pending) for each in gc.get_objects())


def test_a_head_with_an_id_of_its_own_is_not_kept(served: Served) -> None:
    lane = served.suite.gateway.lane
    kept = len(lane._known)
    named = request(served.suite, INFER, matrix([1, 2, 3]), x_request_id="mine")
    assert served.ask("lane", named)[0][1]["x-request-id"] == "mine"
    assert len(lane._known) == kept


def test_a_new_table_forgets_what_was_known(served: Served) -> None:
    suite, lane = served.suite, served.suite.gateway.lane
    data = request(suite, INFER, matrix([1, 2, 3]))
    served.ask("lane", data)
    head = data[: data.index(b"\r\n\r\n") + 4]
    assert lane.recall(head) is not None
    plane = suite.gateway.plane
    plane.state = replace(plane.state, revision=plane.state.revision + 1)
    assert lane.recall(head) is None
    assert served.ask("lane", data)[0][0] == 200


def test_what_a_replica_refuses_is_answered_by_the_champion(served: Served) -> None:
    before = served.ordinary
    data = request(served.suite, "/v2/models/sick/infer", matrix([1, 2, 3]))
    ((status, _, body),) = served.ask("lane", data)
    answer = orjson.loads(body)
    assert (status, served.ordinary) == (200, before + 1)
    assert answer["parameters"]["fallback"] == "champion"
    assert answer["outputs"][0]["data"] == [6.0]


def test_a_body_that_is_too_large_is_refused_as_ever(served: Served) -> None:
    data = request(served.suite, INFER, matrix([1, 2, 3]) + b" " * 60_000)
    for name in ("lane", "plain"):
        ((status, _, body),) = served.ask(name, data)
        assert (status, orjson.loads(body)["reason"]) == (413, "BODY_TOO_LARGE")


def test_a_revoked_key_is_refused_in_the_lane_too(served: Served) -> None:
    suite = served.suite
    key = suite.gateway.keys.create(["serving:predict"])
    data = request(suite, INFER, matrix([1, 2, 3]), authorization=f"Bearer {key}")
    assert served.ask("lane", data)[0][0] == 200
    before = served.ordinary
    assert served.ask("lane", data)[0][0] == 200
    assert served.ordinary == before
    suite.gateway.keys.revoke(key[4:12])
    suite.run(suite.gateway.door.refresh())
    assert served.ask("lane", data)[0][0] == 401


def test_the_lane_logs_what_it_answers(served: Served) -> None:
    suite = served.suite
    suite.settle()
    suite.events.clear()
    unit = uuid7_str()
    served.ask("lane", request(suite, INFER, matrix([1, 2.5, 3])))
    served.ask("lane", request(suite, PREDICT, instances([4, 5, 6])))
    suite.settle()
    batches = suite.predictions(2)
    rows = {
        tuple(batch[f"input.x{column}"][at] for column in range(3)): score
        for batch in batches
        for at, score in enumerate(batch["score"])
    }
    assert rows == {(1, 2.5, 3): 6.5, (4, 5, 6): 15}
    assert all(each > unit for batch in batches for each in batch["prediction_id"])


def test_raw_tensors_go_through_the_lane(served: Served) -> None:
    head = orjson.dumps(
        {
            "inputs": [
                {
                    "name": "features",
                    "datatype": "FP32",
                    "shape": [2, 3],
                    "parameters": {"binary_data_size": 24},
                }
            ],
            "parameters": {"binary_data_output": True},
        }
    )
    data = request(
        served.suite,
        INFER,
        head + struct.pack("<6f", 1, 2, 3, 4, 5, 6),
        content_type="application/octet-stream",
        inference_header_content_length=str(len(head)),
    )
    before = served.ordinary
    ((status, headers, body),) = served.ask("lane", data)
    assert (status, served.ordinary) == (200, before)
    assert struct.unpack("<2f", body[int(headers["inference-header-content-length"]) :]) == (6, 15)
