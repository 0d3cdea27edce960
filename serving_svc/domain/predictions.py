"""The log of predictions: what a row of it is, and which of its files become one."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from uuid import UUID

#: Files of about one size that are made into one.
MERGE_FILES = 16
#: Rows after which a file is large enough to be left alone.
MOST_ROWS = 250_000

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
#: UUID of version 7 in its usual text form (RFC 9562), whose order is that of time.
UUID7 = r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
_UUID7 = re.compile(UUID7)

#: Fallbacks that are no model's answer to what was asked.
STANDS_IN = frozenset(("default", "last_answer"))

Value = float | str | None


@dataclass(frozen=True, slots=True)
class LogFile:
    """Rows of one endpoint and day, in the order of their ids.

    Attributes:
        shape: Hash of the columns; only files of one shape become one.
        min_id: Least prediction id.
        max_id: Greatest prediction id.
        size: Bytes.
    """

    file_id: str
    endpoint_id: str
    day: date
    shape: str
    min_id: str
    max_id: str
    rows: int
    size: int


@dataclass(frozen=True, slots=True)
class LoggedRow:
    """A row that one version scored.

    Attributes:
        shadow: Whether its answer went to nobody.
        score: First output; nothing when there was none.
        inputs: Values by name; nothing where one was missing.
        known: When looked-up values became known, by name.
        failure: Why a shadow did not score the row; empty when it did.
        cached: Whether the answer was kept from an earlier prediction.
    """

    prediction_id: str
    endpoint_id: str
    variant: str
    model_version: str
    shadow: bool
    score: float | None
    unit_id: str
    event_time: datetime
    latency_us: int
    fallback: str
    table_generation: int
    inputs: Mapping[str, Value] = field(default_factory=dict)
    known: Mapping[str, datetime] = field(default_factory=dict)
    failure: str = ""
    cached: bool = False


def is_prediction_id(text: str) -> bool:
    """Whether a text is an id that a prediction can have.

    >>> is_prediction_id("0190a566-0dbe-7000-8000-000000000000")
    True
    >>> is_prediction_id("0190a566-0dbe-4000-8000-000000000000")
    False
    """
    return _UUID7.fullmatch(text) is not None


def asked_at(prediction_id: str) -> datetime:
    """When a prediction was asked for, to the millisecond: its id tells (RFC 9562, 5.7).

    Raises ValueError for what is no such id, or of a time beyond the calendar.

    >>> asked_at("0190a566-0dbe-7000-8000-000000000000").isoformat(timespec="milliseconds")
    '2024-07-12T05:24:07.230+00:00'
    """
    if not is_prediction_id(prediction_id):
        raise ValueError("not a UUID of version 7")
    try:
        return _EPOCH + timedelta(milliseconds=int(prediction_id[:8] + prediction_id[9:13], 16))
    except OverflowError as error:
        raise ValueError("the id's time is beyond the calendar") from error


def first_id_at(moment: datetime) -> str:
    """The least id that a prediction asked for at a moment, or later, can have.

    >>> first_id_at(datetime(2024, 7, 12, 5, 24, 7, 230_000, UTC))
    '0190a566-0dbe-7000-8000-000000000000'
    """
    ms = max(0, (moment - _EPOCH) // timedelta(milliseconds=1))
    text = f"{ms:012x}"
    return f"{text[:8]}-{text[8:]}-7000-8000-000000000000"


def id_after(prediction_id: str) -> str:
    """The least text in an id's form that comes after it.

    >>> id_after("0190a566-0dbe-7000-8000-0000000000ff")
    '0190a566-0dbe-7000-8000-000000000100'
    """
    return str(UUID(int=UUID(prediction_id).int + 1))


def to_merge(
    files: Sequence[LogFile], today: date, *, least: int = MERGE_FILES, most_rows: int = MOST_ROWS
) -> list[list[LogFile]]:
    """Groups of files that become one each.

    Files of one endpoint, day and shape are merged when `least` of about the same size have come
    together, so that a row is written again once for every factor of `least` (a log-structured
    merge, O'Neil et al. 1996), or when together they make a file of `most_rows`. What is left of a
    day that has passed is merged at once.
    """
    groups: dict[tuple[str, date, str, int], list[LogFile]] = {}
    for each in files:
        if each.rows < most_rows:
            tier = 0 if each.day < today else _tier(each.rows, least)
            key = (each.endpoint_id, each.day, each.shape, tier)
            groups.setdefault(key, []).append(each)
    found: list[list[LogFile]] = []
    for (_, day, _, _), group in groups.items():
        enough = 2 if day < today else least
        for part in _cut(sorted(group, key=lambda each: each.min_id), most_rows):
            full = len(part) > 1 and sum(each.rows for each in part) >= most_rows
            if full or len(part) >= enough:
                found.append(part)
    return found


def _tier(rows: int, least: int) -> int:
    tier = 0
    while rows >= least:
        rows //= least
        tier += 1
    return tier


def _cut(files: Sequence[LogFile], most_rows: int) -> list[list[LogFile]]:
    """Neighbours that together are about as large as a file may be."""
    parts: list[list[LogFile]] = [[]]
    rows = 0
    for each in files:
        if rows >= most_rows:
            parts.append([])
            rows = 0
        parts[-1].append(each)
        rows += each.rows
    return parts
