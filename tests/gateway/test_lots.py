"""Requests for one row, answered together: each as if it had been alone."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from gateway.dataplane import lots
from gateway.dataplane.assignment import bucket
from gateway.dataplane.template import ID, NUMBER, number_texts, template
from tests.gateway import tables
from tests.gateway.conftest import Suite
from tests.gateway.lane import ROUTE, Two, push_two


def found(body: bytes) -> tuple[str, str, float]:
    """Id, variant and score in an answer of either protocol."""
    document = orjson.loads(body)
    if "parameters" in document:
        told = document["parameters"]
        return told["prediction_ids"], told["variant"], document["outputs"][0]["data"][0]
    (prediction,) = document["predictions"]
    return prediction["prediction_id"], prediction["variant"], prediction["outputs"]["y"]


def test_each_gets_its_own_answer_and_a_row_in_the_log(two: Two) -> None:
    two.slow(0.02)  # what comes meanwhile goes together
    before = two.served.ordinary
    asked = [two.matrix((n, 0.5, 0)) for n in range(40)]
    asked += [two.named(f"u{n}", n, 0.25, 0) for n in range(40)]
    answers = two.ask(*asked)
    two.slow(0.0)
    assert two.served.ordinary == before
    assert {status for status, *_ in answers} == {200}
    told = [found(body) for *_, body in answers]
    sums = [n + 0.5 for n in range(40)] + [n + 0.25 for n in range(40)]
    assert [score for *_, score in told] == sums
    assert [headers["x-request-id"] for _, headers, _ in answers] == [each for each, *_ in told]
    for n, (_, variant, _) in enumerate(told[40:]):
        assert variant == ("v1" if bucket("s", f"u{n}") < 5_000 else "v2")
    assert len({variant for _, variant, _ in told[:40]}) == 2
    assert sum(map(len, (replica.batches for replica in two.replicas))) < 20
    two.suite.settle()
    logged = {
        (made, batch.batch.variant): (score, unit, at)
        for batch in two.suite.predictions(4)
        for made, score, unit, at in zip(
            batch["prediction_id"],
            batch["score"],
            batch.columns.get("unit_id", batch["prediction_id"]),
            batch["input.x0"],
            strict=True,
        )
    }
    units = [made for made, *_ in told[:40]] + [f"u{n}" for n in range(40)]
    assert logged == {
        (made, variant): (score, unit, n % 40)
        for n, ((made, variant, score), unit) in enumerate(zip(told, units, strict=True))
    }


def test_a_lot_is_bounded(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lots, "MOST_ROWS", 4)
    sizes: list[int] = []
    sent = lots.Lot.sent

    def note(self: lots.Lot[Any]) -> None:
        sizes.append(self.rows)
        sent(self)

    monkeypatch.setattr(lots.Lot, "sent", note)
    answers = two.ask(*[two.matrix((n, 0, 0)) for n in range(60)])
    assert [found(body)[2] for *_, body in answers] == list(range(60))
    assert sum(sizes) == 60
    assert max(sizes) <= 4


def test_a_lot_whose_replica_is_lost_goes_to_another(two: Two, suite: Suite) -> None:
    signature = tables.plain_signature(3)
    one, other = two.replicas
    whole = tables.variant("v1", 10_000, of=signature)
    push_two(suite, tables.route(ROUTE, whole), one.address, other.address)
    one.break_next = True
    before = two.served.ordinary
    answers = two.ask(*[two.matrix((n, 0, 0)) for n in range(20)])
    assert [found(body)[2] for *_, body in answers] == list(range(20))
    assert two.served.ordinary > before
    one.break_next = False
    suite.until(lambda: suite.gateway._pool._count() == 2)


@pytest.mark.parametrize("raw", [b"", b"\0" * 12, b"\0\0\xc0\x7f"])
def test_an_answer_that_makes_no_sense_is_nobodys(two: Two, raw: bytes) -> None:
    two.spoil(raw)
    answers = two.ask(two.matrix((1, 2, 3)), two.matrix((4, 5, 6)))
    two.spoil(None)
    assert [status for status, *_ in answers] == [503, 503]


def test_a_lot_that_waits_too_long_is_answered_otherwise(two: Two) -> None:
    two.push(deadline_ms=200, default_outputs=[-1.0])
    two.slow(0.5)
    answers = two.ask(*[two.matrix((n, 0, 0)) for n in range(6)])
    two.slow(0.0)
    told = [orjson.loads(body) for *_, body in answers]
    assert [each["outputs"][0]["data"] for each in told] == [[-1.0]] * 6
    assert {each["parameters"]["fallback"] for each in told} == {"default"}


def test_an_endpoint_with_a_limit_takes_no_more(two: Two) -> None:
    two.push(max_in_flight=3)
    two.slow(0.1)
    answers = two.ask(*[two.matrix((n, 0, 0)) for n in range(8)])
    two.slow(0.0)
    assert sorted(status for status, *_ in answers) == [200] * 3 + [503] * 5


def test_an_answer_that_cannot_be_made_is_made_the_ordinary_way(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> bytes:
        raise RuntimeError("broken")

    monkeypatch.setattr("gateway.inference_v2.document._template", broken)
    before = two.served.ordinary
    answers = two.ask(two.matrix((1, 2, 3)), two.named("ann", 4, 5, 6))
    assert [found(body)[2] for *_, body in answers] == [6, 15]
    assert two.served.ordinary == before + 1


def test_what_has_shadows_or_kept_answers_is_no_part_of_a_lot(
    two: Two, suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lots.Lots, "_lot", never)
    for kept in ({"cache_rows": 10}, {"last_answer_rows": 10, "last_answer_age_s": 60}):
        two.push(**kept)
        assert found(two.ask(two.matrix((1, 2, 3)))[0][2])[2] == 6
    assert suite.gateway.plane.last_answers.rows() == 1
    signature = tables.plain_signature(3)
    one, other = two.replicas
    primary = tables.variant("v1", 10_000, of=signature)
    shadow = tables.variant("v2", 0, 10_000, of=signature)
    suite.push(tables.route(ROUTE, primary, shadow), v1=one.address, v2=other.address)
    assert found(two.ask(two.matrix((1, 2, 3)))[0][2])[1:] == ("v1", 6)
    suite.settle()
    assert {batch.batch.variant for batch in suite.predictions(2)} == {"v1", "v2"}


def never(*_: Any) -> None:
    raise AssertionError("a lot")


def test_a_template_is_filled_as_the_document_would_be_written() -> None:
    numbers = [(0.1, 1e-30), (-3.0, 1e300)]
    document = {"100 %": "50 %s", "id": ID, "of": {"a": NUMBER, "b": [NUMBER]}}
    filled = template(document) % (b"me", *number_texts(numbers)[1])
    assert orjson.loads(filled) == {"100 %": "50 %s", "id": "me", "of": {"a": -3.0, "b": [1e300]}}
    assert filled == orjson.dumps(orjson.loads(filled))
    assert number_texts([(0.5,), (2.0,)]) == [(b"0.5",), (b"2.0",)]
