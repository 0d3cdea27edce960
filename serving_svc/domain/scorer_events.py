"""Events of stream scorers as they stand in a stream, and what becomes of them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from itertools import islice
from typing import Any

import orjson

Fields = Mapping[bytes, bytes]
"""Fields of an entry of a stream."""

#: Bytes of an event's `data`, and of all those that are asked for in one call.
MOST_DATA = 64 * 1024
MOST_CALL = 4 * 1024 * 1024
_MOST_ID = 256
#: Fields of an event that its dead letter holds.
_MOST_FIELDS = 1_000

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_TIMESTAMP = re.compile(
    r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", re.ASCII
)
#: Ids of predictions stay within the years 2000 to 2199, whatever the ids of entries say: the
#: prediction log keeps a folder a day.
_FIRST_MS, _LAST_MS = 946_684_800_000, 7_258_118_400_000 - 1


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of a stream.

    Attributes:
        fields: Nothing when its producer has removed it.
    """

    entry_id: str
    fields: Fields | None


@dataclass(frozen=True, slots=True)
class Event:
    """An event that can be asked for.

    Attributes:
        time_us: When it happened, microseconds since the Unix epoch.
        instance: The instance as JSON.
    """

    entry: Entry
    event_id: str
    prediction_id: str
    time_us: int
    instance: bytes


class Fate(StrEnum):
    """Why an event has no prediction."""

    REFUSED = "REFUSED"
    """It is wrong itself."""
    FAILED = "FAILED"
    """The model failed on it."""
    UNAVAILABLE = "UNAVAILABLE"
    """Nobody can answer now."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """What an endpoint answered."""

    outputs: Mapping[str, float]
    variant: str
    model_version: str
    fallback: str
    table_generation: int


@dataclass(frozen=True, slots=True)
class Problem:
    """Why there is no prediction.

    Attributes:
        reason: UPPER_SNAKE.
        field: Field at fault, or empty.
    """

    fate: Fate
    reason: str
    field: str = ""


Answer = Prediction | Problem


class Kind(StrEnum):
    """How an event ends."""

    RESULT = "result"
    DEAD_LETTER = "dead"
    REPEAT = "repeat"
    """Its id has a result already: nothing is appended."""


@dataclass(frozen=True, slots=True)
class Ending:
    """The end of an event.

    Attributes:
        fields: What is appended; empty for a repeat.
    """

    entry_id: str
    event_id: str
    kind: Kind
    fields: Fields


def read_event(uid: str, entry: Entry, input_fields: Mapping[str, str]) -> Event | Problem:
    """The event in an entry, or why there is none that could be asked for.

    Args:
        uid: Of the scorer.
        input_fields: JSON pointers into the data by input.
    """
    fields = entry.fields
    if fields is None:
        return _refused("EVENT_DELETED", "")
    event_id = id_of(entry)
    if not event_id:
        return _refused("INVALID_ID", "id")
    time_us = _time_us(entry.entry_id, fields)
    if time_us is None:
        return _refused("INVALID_FORMAT", "time")
    data = fields.get(b"data", b"")
    if len(data) > MOST_DATA:
        return _refused("EVENT_TOO_LARGE", "data")
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError:
        return _refused("MALFORMED_JSON", "data")
    if type(document) is not dict:
        return _refused("WRONG_TYPE", "data")
    instance = document
    if input_fields:
        found = {name: pointed_at(document, pointer) for name, pointer in input_fields.items()}
        instance = {name: value for name, value in found.items() if value is not None}
    nested = next((name for name, value in instance.items() if isinstance(value, dict | list)), "")
    if nested:
        return _refused("WRONG_TYPE", nested if nested in input_fields else "data")
    return Event(
        entry, event_id, prediction_id(uid, event_id, entry.entry_id), time_us,
        orjson.dumps(instance),
    )  # fmt: skip


def id_of(entry: Entry) -> str:
    """The id of the event in an entry, the entry's own where it gives none; empty for a bad one."""
    given = (entry.fields or {}).get(b"id")
    if given is None:
        return entry.entry_id
    try:
        return given.decode() if 0 < len(given) <= _MOST_ID else ""
    except UnicodeDecodeError:
        return ""


def prediction_id(uid: str, event_id: str, entry_id: str) -> str:
    """The id of an event's prediction: the same, however often the event is read.

    A UUID of version 7 whose time is that of the entry; the rest is a digest of scorer and event.

    >>> prediction_id("s", "e", "1720761847230-0")
    '0190a566-0dbe-78fb-aad7-27ccd568f91b'
    """
    millis = min(max(int(entry_id.partition("-")[0]), _FIRST_MS), _LAST_MS)
    digest = hashlib.sha256(f"{uid}\0{event_id}".encode()).digest()
    rest = int.from_bytes(digest[:10])
    high, low = rest >> 68, rest & (2**62 - 1)
    text = f"{millis:012x}7{high:03x}{(0b10 << 62) | low:016x}"
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


def pointed_at(document: Any, pointer: str) -> Any:
    """What a JSON pointer (RFC 6901) points at; nothing when that is not there.

    >>> pointed_at({"order": {"lines": [{"sku": "a"}]}}, "/order/lines/0/sku")
    'a'
    """
    for token in pointer.split("/")[1:]:
        if isinstance(document, list):
            at = int(token) if re.fullmatch(r"0|[1-9][0-9]{0,8}", token, re.ASCII) else -1
            document = document[at] if 0 <= at < len(document) else None
        elif isinstance(document, dict):
            document = document.get(token.replace("~1", "/").replace("~0", "~"))
        else:
            return None
    return document


def result_of(event: Event, endpoint: str, prediction: Prediction) -> Ending:
    """The result of an event, an event itself."""
    data = {
        "prediction_id": event.prediction_id,
        "outputs": dict(prediction.outputs),
        "variant": prediction.variant,
        "model_version": prediction.model_version,
        "fallback": prediction.fallback,
        "endpoint": endpoint,
        "table_generation": prediction.table_generation,
    }
    fields = {
        b"id": event.event_id.encode(),
        b"time": _text(event.time_us).encode(),
        b"data": orjson.dumps(data),
    }
    return Ending(event.entry.entry_id, event.event_id, Kind.RESULT, fields)


def dead_letter_of(entry: Entry, problem: Problem) -> Ending:
    """An event that can't be scored, as it came, and why."""
    event_id = id_of(entry)
    fields = {
        b"id": event_id.encode(),
        **dict(islice((entry.fields or {}).items(), _MOST_FIELDS)),
        b"entry": entry.entry_id.encode(),
        b"reason": problem.reason.encode(),
        b"field": problem.field.encode(),
    }
    return Ending(entry.entry_id, event_id, Kind.DEAD_LETTER, fields)


def repeat_of(event: Event) -> Ending:
    """An event whose id has a result."""
    return Ending(event.entry.entry_id, event.event_id, Kind.REPEAT, {})


def calls(events: Sequence[Event], most_bytes: int = MOST_CALL) -> Iterator[list[Event]]:
    """The events in parts that are small enough for one call each, in their order."""
    part: list[Event] = []
    size = 0
    for event in events:
        if part and size + len(event.instance) > most_bytes:
            yield part
            part, size = [], 0
        part.append(event)
        size += len(event.instance)
    if part:
        yield part


def _time_us(entry_id: str, fields: Fields) -> int | None:
    given = fields.get(b"time")
    if given is None:
        return min(int(entry_id.partition("-")[0]), _LAST_MS) * 1_000
    try:
        text = given.decode()
        if not _TIMESTAMP.fullmatch(text):
            return None
        return (datetime.fromisoformat(text.upper()) - _EPOCH) // _MICROSECOND
    except (ValueError, OverflowError):
        return None


def _text(time_us: int) -> str:
    return (_EPOCH + time_us * _MICROSECOND).isoformat().replace("+00:00", "Z")


def _refused(reason: str, field: str) -> Problem:
    return Problem(Fate.REFUSED, reason, field)
