"""The wire format of events and results, by example and by property."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving_svc.domain.predictions import asked_at, is_prediction_id
from serving_svc.domain.scorer_events import (
    MOST_DATA,
    Entry,
    Event,
    Fate,
    Kind,
    Prediction,
    Problem,
    calls,
    dead_letter_of,
    pointed_at,
    prediction_id,
    read_event,
    result_of,
)

ENTRY = "1720761847230-5"
SCALARS = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(
    allow_nan=False, allow_infinity=False
) | st.text()  # fmt: skip
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))


def read(fields: dict[bytes, bytes] | None, **pointers: str) -> Event | Problem:
    return read_event("uid", Entry(ENTRY, fields), pointers)


def instance(event: Event | Problem) -> Any:
    assert isinstance(event, Event), event
    return orjson.loads(event.instance)


def test_an_event_as_its_producer_wrote_it() -> None:
    event = read({b"id": b"e1", b"time": b"2013-07-02T11:15:00+02:00", b"data": b'{"hour": 5}'})
    assert isinstance(event, Event)
    assert (event.event_id, instance(event)) == ("e1", {"hour": 5})
    assert event.time_us == 1_372_756_500_000_000


def test_what_is_absent_is_the_entrys() -> None:
    event = read({b"data": b"{}", b"other": b"\xff"})
    assert isinstance(event, Event)
    assert (event.event_id, event.time_us) == (ENTRY, 1_720_761_847_230_000)


def test_inputs_are_taken_from_where_they_are_pointed_at() -> None:
    data = orjson.dumps({"order": {"total": 9.5, "a/b": "x", "lines": [{"sku": "s"}]}, "id": 3})
    pointers = {
        "amount": "/order/total",
        "odd": "/order/a~1b",
        "sku": "/order/lines/0/sku",
        "gone": "/order/lines/1/sku",
        "deep": "/id/deeper",
    }
    found = instance(read({b"data": data}, **pointers))
    assert found == {"amount": 9.5, "odd": "x", "sku": "s"}


@pytest.mark.parametrize(
    ("fields", "reason", "field"),
    [
        (None, "EVENT_DELETED", ""),
        ({b"id": b"", b"data": b"{}"}, "INVALID_ID", "id"),
        ({b"id": b"\xff", b"data": b"{}"}, "INVALID_ID", "id"),
        ({b"id": b"x" * 257, b"data": b"{}"}, "INVALID_ID", "id"),
        ({b"time": b"yesterday", b"data": b"{}"}, "INVALID_FORMAT", "time"),
        ({b"time": b"2013-07-02T11:15:00", b"data": b"{}"}, "INVALID_FORMAT", "time"),
        ({b"time": b"2013-13-02T11:15:00Z", b"data": b"{}"}, "INVALID_FORMAT", "time"),
        ({b"x": b"y"}, "MALFORMED_JSON", "data"),
        ({b"data": b'{"hour": NaN}'}, "MALFORMED_JSON", "data"),
        ({b"data": b"[1]"}, "WRONG_TYPE", "data"),
        ({b"data": b'{"hour": [1]}'}, "WRONG_TYPE", "data"),
        ({b"data": b'{"x": "' + b"y" * MOST_DATA + b'"}'}, "EVENT_TOO_LARGE", "data"),
    ],
)
def test_what_is_no_event_says_why(
    fields: dict[bytes, bytes] | None, reason: str, field: str
) -> None:
    assert read(fields) == Problem(Fate.REFUSED, reason, field)


@given(st.dictionaries(st.binary(max_size=8), st.binary()) | st.none())
def test_no_entry_is_too_strange(fields: dict[bytes, bytes] | None) -> None:
    found = read(fields)
    if isinstance(found, Problem):
        assert found.fate is Fate.REFUSED
        letter = dead_letter_of(Entry(ENTRY, fields), found)
        assert letter.fields[b"entry"] == ENTRY.encode()
        assert letter.fields[b"reason"] == found.reason.encode()
        if fields is not None:
            kept = {key: value for key, value in fields.items() if key not in letter_names}
            assert kept.items() <= letter.fields.items()


letter_names = {b"entry", b"reason", b"field"}


@given(JSON, st.text())
def test_a_pointer_finds_something_or_nothing(document: Any, pointer: str) -> None:
    found = pointed_at(document, pointer)
    assert found is None or found in list(parts_of(document))


def parts_of(document: Any) -> Iterator[Any]:
    """A document and everything in it."""
    yield document
    inner = document.values() if isinstance(document, dict) else document
    if isinstance(document, dict | list):
        for each in inner:
            yield from parts_of(each)


@given(st.dictionaries(st.text(), SCALARS))
def test_a_pointer_finds_each_member(document: dict[str, Any]) -> None:
    for name, value in document.items():
        pointer = "/" + name.replace("~", "~0").replace("/", "~1")
        assert pointed_at(document, pointer) == value


@given(st.text(min_size=1), st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
def test_ids_of_predictions_are_good_ones(event: str, millis: int, number: int) -> None:
    entry = f"{millis}-{number}"
    found = prediction_id("uid", event, entry)
    assert is_prediction_id(found)
    assert uuid.UUID(found).version == 7
    assert found == prediction_id("uid", event, entry)
    assert found[18:] != prediction_id("other", event, entry)[18:]
    assert 2000 <= asked_at(found).year <= 2199


@given(st.lists(st.integers(0, 50), max_size=40), st.integers(1, 100))
def test_calls_are_small_and_keep_the_order(sizes: list[int], most: int) -> None:
    events = [Event(Entry("0-0", {}), "e", "p", 0, b"x" * size) for size in sizes]
    parts = list(calls(events, most))
    assert [event for part in parts for event in part] == events
    assert all(parts)
    assert all(len(part) == 1 or sum(len(e.instance) for e in part) <= most for part in parts)


def test_a_result_is_an_event_itself() -> None:
    event = read({b"id": b"e1", b"time": b"2013-07-02T09:15:00Z", b"data": b"{}"})
    assert isinstance(event, Event)
    answer = Prediction({"late": 0.25}, "v1", "models/m/versions/1", "", 7)
    ending = result_of(event, "endpoints/late", answer)
    assert (ending.kind, ending.entry_id) == (Kind.RESULT, ENTRY)
    assert ending.fields[b"id"] == b"e1"
    assert ending.fields[b"time"] == b"2013-07-02T09:15:00Z"
    assert orjson.loads(ending.fields[b"data"]) == {
        "prediction_id": event.prediction_id,
        "outputs": {"late": 0.25},
        "variant": "v1",
        "model_version": "models/m/versions/1",
        "fallback": "",
        "endpoint": "endpoints/late",
        "table_generation": 7,
    }
    again = read_event("uid", Entry(ENTRY, ending.fields), {"late": "/outputs/late"})
    assert instance(again) == {"late": 0.25}


def test_a_dead_letter_holds_no_more_fields_than_redis_takes_at_once() -> None:
    fields = {b"f%d" % n: b"" for n in range(5_000)}
    letter = dead_letter_of(Entry(ENTRY, fields), Problem(Fate.REFUSED, "R", "f"))
    assert len(letter.fields) == 1_004
