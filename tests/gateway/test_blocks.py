"""Requests for a matrix of rows, answered by columns: each row as if it had been alone."""

from __future__ import annotations

import struct
import uuid
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dataplane import blocks, routing
from gateway.dataplane.id_block import IdBlock
from service_kit import ids as kit_ids
from service_kit.ids import uuid7_str
from tests.gateway import tables
from tests.gateway.conftest import Suite
from tests.gateway.lane import ROUTE, Two, push_two
from tests.gateway.test_lots import never

ROWS = [(n, 0.25, n / 2) for n in range(50)]
SUMS = [n + 0.25 + n / 2 for n in range(50)]


def told(headers: dict[str, str], body: bytes) -> tuple[list[str], list[str], list[float]]:
    """Ids, variants and scores of an answer, JSON or with a raw tensor."""
    length = int(headers.get("inference-header-content-length", len(body)))
    document = orjson.loads(body[:length])
    said = document["parameters"]
    (output,) = document["outputs"]
    assert output["shape"] == [len(ROWS)]
    data = output.get("data") or struct.unpack(f"<{len(ROWS)}f", body[length:])
    return said["prediction_ids"].split(","), said["variant"].split(","), list(data)


@pytest.mark.parametrize("raw", [False, True])
def test_each_row_gets_its_own_answer_and_its_place_in_the_log(two: Two, raw: bool) -> None:
    before = two.served.ordinary
    asked = two.raw(*ROWS) if raw else two.matrix(*ROWS)
    ((status, headers, body),) = two.ask(asked)
    assert (status, two.served.ordinary) == (200, before)
    made, variants, scores = told(headers, body)
    assert scores == SUMS
    assert headers["x-request-id"] == made[0]
    route = two.suite.gateway.plane.state.routes[ROUTE]
    assert variants == [route.draw(each).name for each in made]
    assert set(variants) == {"v1", "v2"}
    two.suite.settle()
    logged = {
        each: (
            batch.batch.variant,
            batch["score"][row],
            tuple(batch[f"input.x{at}"][row] for at in range(3)),
        )
        for batch in two.suite.predictions(2)
        for row, (each, score) in enumerate(
            zip(batch["prediction_id"], batch["score"], strict=True)
        )
    }
    rows = zip(made, variants, SUMS, ROWS, strict=True)
    assert logged == {each: (variant, score, row) for each, variant, score, row in rows}


def test_what_one_version_answers_is_said_once(two: Two, suite: Suite) -> None:
    one = two.replicas[0]
    whole = tables.variant("v1", 10_000, of=tables.plain_signature(3))
    suite.push(tables.route(ROUTE, whole), v1=one.address)
    ((_, headers, body),) = two.ask(two.matrix(*ROWS))
    assert told(headers, body)[1:] == (["v1"], SUMS)


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
    monkeypatch.setattr(blocks.Blocks, "_begin", never)
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


def test_versions_with_other_outputs_or_inputs_are_no_block(two: Two, suite: Suite) -> None:
    one, other = two.replicas
    signature, more = tables.plain_signature(3), tables.plain_signature(3)
    more.outputs[:] = ["y", "z"]
    variants = tables.variant("v1", 5_000, of=signature), tables.variant("v2", 5_000, of=more)
    other.model = lambda rows: [[sum(row), 0.0] for row in rows]
    suite.push(tables.route(ROUTE, *variants), v1=one.address, v2=other.address)
    ((_, headers, body),) = two.ask(two.matrix(*ROWS))
    other.model = one.model
    assert told(headers, body)[2] == SUMS
    wide = tables.variant("v2", 5_000, of=tables.plain_signature(4))
    suite.push(tables.route(ROUTE, variants[0], wide), v1=one.address, v2=other.address)
    ((status, _, body),) = two.ask(two.matrix(*ROWS))
    assert (status, orjson.loads(body)["reason"]) == (400, "WRONG_SHAPE")


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
    assert block.buckets().tolist() == [int(each[-8:], 16) * 10_000 >> 32 for each in made]
    assert block.written(slice(None)).decode() == "".join(made)


def test_a_bucket_is_drawn_as_for_a_lone_row(two: Two) -> None:
    route = two.suite.gateway.plane.state.routes[ROUTE]
    block = IdBlock(1_000)
    places = [routing.bisect_right(route.bounds, each) for each in block.buckets().tolist()]
    drawn: list[Any] = [route.draw(each) for each in block.listed().split(",")]
    assert [route.variants[place] for place in places] == drawn
