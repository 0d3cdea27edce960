"""Requests for a matrix of rows, answered by columns as they would have been one by one."""

from __future__ import annotations

import struct
import time
import uuid

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dataplane import blocks
from gateway.dataplane.id_block import IdBlock
from service_kit import ids as kit_ids
from service_kit.ids import uuid7_str
from tests.gateway import tables
from tests.gateway.conftest import Suite
from tests.gateway.lane import ROUTE, Two, push_two
from tests.gateway.test_lots import never

ROWS = [(n, 0.25, n / 2) for n in range(50)]
SUMS = [n + 0.25 + n / 2 for n in range(50)]


def told(headers: dict[str, str], body: bytes) -> tuple[list[str], str, list[float]]:
    """Ids, variant and scores of an answer, JSON or with a raw tensor."""
    length = int(headers.get("inference-header-content-length", len(body)))
    document = orjson.loads(body[:length])
    said = document["parameters"]
    (output,) = document["outputs"]
    assert output["shape"] == [len(ROWS)]
    data = output.get("data") or struct.unpack(f"<{len(ROWS)}f", body[length:])
    return said["prediction_ids"].split(","), said["variant"], list(data)


def logged(two: Two, rows: int) -> dict[str, tuple[str, float, tuple[float, ...]]]:
    """Variant, score and inputs of all logged predictions, by their ids."""
    two.suite.settle()
    found: dict[str, tuple[str, float, tuple[float, ...]]] = {}
    deadline = time.monotonic() + 20
    while len(found) < rows and time.monotonic() < deadline:
        for batch in two.suite.predictions():
            inputs = zip(*(batch[f"input.x{at}"] for at in range(3)), strict=True)
            scored = zip(batch["prediction_id"], batch["score"], inputs, strict=True)
            found |= {each: (batch.batch.variant, score, row) for each, score, row in scored}
    return found


@pytest.mark.parametrize("raw", [False, True])
def test_a_request_is_drawn_as_a_whole_and_each_row_logged(two: Two, raw: bool) -> None:
    before = two.served.ordinary
    asked = two.raw(*ROWS) if raw else two.matrix(*ROWS)
    answers = two.ask(*[asked] * 32)
    assert two.served.ordinary == before
    route = two.suite.gateway.plane.state.routes[ROUTE]
    expected, chosen = {}, set()
    for status, headers, body in answers:
        made, variant, scores = told(headers, body)
        assert (status, scores) == (200, SUMS)
        assert headers["x-request-id"] == made[0]
        assert variant == route.draw(made[0]).name
        chosen.add(variant)
        rows = zip(made, SUMS, ROWS, strict=True)
        expected |= {each: (variant, score, row) for each, score, row in rows}
    assert chosen == {"v1", "v2"}
    assert logged(two, len(expected)) == expected


def test_what_one_version_answers_is_said_once(two: Two, suite: Suite) -> None:
    one = two.replicas[0]
    whole = tables.variant("v1", 10_000, of=tables.plain_signature(3))
    suite.push(tables.route(ROUTE, whole), v1=one.address)
    ((_, headers, body),) = two.ask(two.matrix(*ROWS))
    assert told(headers, body)[1:] == ("v1", SUMS)


@pytest.mark.parametrize("raw", [b"", b"\0" * 12, b"\0\0\xc0\x7f" * 50])
def test_an_answer_that_makes_no_sense_is_nobodys(two: Two, raw: bytes) -> None:
    two.spoil(raw)
    ((status, *_),) = two.ask(two.matrix(*ROWS))
    two.spoil(None)
    assert status == 503


def test_what_waits_too_long_is_answered_otherwise(two: Two) -> None:
    two.push(deadline_ms=200, default_outputs=[-1.0])
    two.slow(0.5)
    ((_, headers, body),) = two.ask(two.matrix(*ROWS))
    two.slow(0)
    assert told(headers, body)[2] == [-1.0] * 50


def test_rows_of_a_lost_replica_are_answered_by_another(two: Two, suite: Suite) -> None:
    one, other = two.replicas
    whole = tables.variant("v1", 10_000, of=tables.plain_signature(3))
    push_two(suite, tables.route(ROUTE, whole), one.address, other.address)
    one.break_next = True
    before = two.served.ordinary
    answers = two.ask(*[two.matrix(*ROWS)] * 4)
    one.break_next = False
    assert [told(headers, body)[2] for _, headers, body in answers] == [SUMS] * 4
    assert two.served.ordinary > before
    suite.until(lambda: suite.gateway._pool._count() == 2)


def test_only_plain_requests_are_blocks(
    two: Two, suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks._Block, "__init__", never)
    keyed = two.matrix(*ROWS, parameters={"routing_key": "ann"})
    assert two.ask(keyed)[0][0] == 200
    for kept in ({"cache_rows": 1_000}, {"last_answer_rows": 1_000, "last_answer_age_s": 60}):
        two.push(**kept)
        assert two.ask(two.matrix(*ROWS))[0][0] == 200
    assert suite.gateway.plane.last_answers.rows() == len(ROWS)
    signature = tables.plain_signature(3)
    primary = tables.variant("v1", 10_000, of=signature)
    shadow = tables.variant("v2", 0, 10_000, of=signature)
    one, other = two.replicas
    suite.push(tables.route(ROUTE, primary, shadow), v1=one.address, v2=other.address)
    assert two.ask(two.matrix(*ROWS))[0][0] == 200


def test_versions_may_have_other_outputs(two: Two, suite: Suite) -> None:
    one, other = two.replicas
    more = tables.plain_signature(3)
    more.outputs[:] = ["y", "z"]
    variants = (
        tables.variant("v1", 5_000, of=tables.plain_signature(3)),
        tables.variant("v2", 5_000, of=more),
    )
    other.model = lambda rows: [[sum(row), 0.5] for row in rows]
    suite.push(tables.route(ROUTE, *variants), v1=one.address, v2=other.address)
    before = two.served.ordinary
    answers = [orjson.loads(body) for _, _, body in two.ask(*[two.matrix(*ROWS)] * 32)]
    other.model = one.model
    assert two.served.ordinary == before
    found = {
        each["parameters"]["variant"]: {out["name"]: out["data"] for out in each["outputs"]}
        for each in answers
    }
    assert found == {"v1": {"y": SUMS}, "v2": {"y": SUMS, "z": [0.5] * len(ROWS)}}


def test_a_matrix_must_be_as_wide_as_its_version_wants(two: Two, suite: Suite) -> None:
    one, other = two.replicas
    plan, wide = tables.plain_signature(3), tables.plain_signature(4)
    variants = tables.variant("v1", 5_000, of=plan), tables.variant("v2", 5_000, of=wide)
    suite.push(tables.route(ROUTE, *variants), v1=one.address, v2=other.address)
    answers = two.ask(*[two.matrix(*ROWS)] * 64)
    bodies = {status: body for status, _, body in answers}
    assert bodies.keys() == {200, 400}
    assert orjson.loads(bodies[400])["reason"] == "WRONG_SHAPE"


@given(count=st.integers(1, 300), left=st.integers(1, 400))
def test_ids_are_those_of_uuid7(count: int, left: int) -> None:
    """Whether or not a millisecond ends among them."""
    before = uuid7_str()
    with pytest.MonkeyPatch.context() as patch:
        tick = (kit_ids._last >> 12) + 1_000 << 12
        patch.setattr(kit_ids, "_tick_now", lambda: tick - left)
        patch.setattr(kit_ids, "_last", kit_ids._last)
        block = IdBlock(count)
        after = uuid7_str()
    made = block.listed().split(",")
    assert [block.first, *made[1:]] == made == sorted(set(made))
    assert before < made[0]
    assert made[-1] < after
    parsed = [uuid.UUID(each) for each in made]
    assert {(each.version, each.variant) for each in parsed} == {(7, uuid.RFC_4122)}
    assert [str(each) for each in parsed] == made
    ticks = [(each.int >> 80 << 12) | (each.int >> 64 & 0xFFF) for each in parsed]
    assert ticks == list(range(tick - left, tick - left + count))
    assert block.written().decode() == "".join(made)
