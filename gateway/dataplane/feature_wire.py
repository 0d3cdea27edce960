"""Reads of features as messages, in frames and in calls, and what comes back. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from struct import Struct
from typing import Any, NamedTuple, Protocol

from google.protobuf.message import DecodeError
from modelyard.data.v1 import data_pb2
from modelyard.dataplane.v1 import dataplane_pb2
from modelyard.features.v1 import features_pb2

PRESENT = data_pb2.VALUE_STATUS_PRESENT
NOT_FOUND = data_pb2.VALUE_STATUS_NOT_FOUND
_PRESENT = bytes([PRESENT])
_NUMBER, _INTEGER, _TEXT = (
    dataplane_pb2.FeaturePlace.KIND_NUMBER,
    dataplane_pb2.FeaturePlace.KIND_INTEGER,
    dataplane_pb2.FeaturePlace.KIND_TEXT,
)

Entities = dict[str, list[Any]]
"""A column of keys by name."""
Kinds = tuple[tuple[str, type], ...]
"""Name and type, int or str, of each column of keys."""


@dataclass(slots=True)
class FeatureColumn:
    """The values of one feature.

    Attributes:
        values: None or NaN where a value is missing.
        statuses: A `ValueStatus` a row; empty when all are present.
        times: When each value became known (microseconds); empty when unknown.
        text: Whether the values are texts.
        remembered: Whether they were read before, as the store does not answer now.
    """

    values: list[Any]
    statuses: bytes = b""
    times: list[int] = field(default_factory=list)
    text: bool = False
    remembered: bool = False

    def part(self, start: int, end: int) -> FeatureColumn:
        """Some of the rows."""
        rows = slice(start, end)
        return FeatureColumn(
            *(self.values[rows], self.statuses[rows], self.times[rows], self.text, self.remembered)
        )


FeatureColumns = dict[str, FeatureColumn]


class Rows(Protocol):
    """The part of a message that one request has."""

    @property
    def entities(self) -> Entities: ...
    @property
    def rows(self) -> int: ...
    @property
    def as_of_us(self) -> Sequence[int]: ...


def kinds_of(entities: Entities) -> Kinds:
    """The types of columns of keys: those of requests that go together are the same."""
    return tuple((name, _kind(values)) for name, values in entities.items())


def _kind(values: list[Any]) -> type:
    return int if all(type(value) is int for value in values) else str


def fill(request: Any, kinds: Kinds, parts: Sequence[Rows]) -> None:
    """Put the entities and reference times of requests, one below the other, into a message."""
    for name, kind in kinds:
        column = request.entities.add(name=name)
        target: Any = column.int64s.values if kind is int else column.strings.values
        for part in parts:
            values = part.entities[name]
            target.extend(values if kind is int else map(str, values))
    if any(part.as_of_us for part in parts):
        for part in parts:
            request.as_of_us.extend(part.as_of_us or [0] * part.rows)


def columns_of_call(
    response: features_pb2.GetOnlineFeaturesResponse, parts: Sequence[Rows]
) -> list[FeatureColumns]:
    """The features of each request in the answer to a call; raises ValueError for nonsense."""
    columns = _columns(response, sum(part.rows for part in parts))
    if len(parts) == 1:
        return [columns]
    found, start = [], 0
    for part in parts:
        end = start + part.rows
        found.append({name: column.part(start, end) for name, column in columns.items()})
        start = end
    return found


def _columns(response: features_pb2.GetOnlineFeaturesResponse, rows: int) -> FeatureColumns:
    columns: FeatureColumns = {}
    for column in response.features:
        kind = column.WhichOneof("values")
        if kind is None:
            raise ValueError("a column without values")
        values = list(getattr(column, kind).values)
        statuses = column.statuses
        if len(values) != rows or len(statuses) not in (0, rows):
            raise ValueError("a column of another length")
        text = kind == "strings"
        values, statuses = _known(values, statuses, text=text)
        times = list(column.event_times_us)
        columns[column.name] = FeatureColumn(values, statuses, times, text, response.remembered)
    return columns


def _known(values: list[Any], statuses: bytes, *, text: bool) -> tuple[list[Any], bytes]:
    """Values with None where one is missing; no statuses when all are present."""
    if statuses.count(PRESENT) == len(statuses):
        return ([value or None for value in values] if text else values), b""
    found = [
        value if status == PRESENT else None for value, status in zip(values, statuses, strict=True)
    ]
    return ([value or None for value in found] if text else found), statuses


class _Place(NamedTuple):
    name: str
    kind: int
    at: int
    view: int


@dataclass(frozen=True, slots=True)
class _Layout:
    places: tuple[_Place, ...]
    numbers: int
    integers: int
    texts: int
    views: int


@lru_cache(maxsize=1_000)
def _layout(data: bytes) -> _Layout:
    places = tuple(
        _Place(each.name, each.kind, each.place, each.view)
        for each in dataplane_pb2.FeatureLayout.FromString(data).features
    )
    numbers, integers, texts = (_count(places, kind) for kind in (_NUMBER, _INTEGER, _TEXT))
    if numbers + integers + texts != len(places):
        raise ValueError("a kind of feature that nobody knows")
    views = max((place.view for place in places), default=-1) + 1
    return _Layout(places, numbers, integers, texts, views)


def _count(places: Sequence[_Place], kind: int) -> int:
    found = sorted(place.at for place in places if place.kind == kind)
    if found != list(range(len(found))):
        raise ValueError("a layout with gaps")
    return len(found)


class _Block:
    """The features of all rows of a frame."""

    def __init__(self, response: dataplane_pb2.ReadFeaturesResponse, rows: int) -> None:
        self.layout = layout = _layout(response.layout)
        self._numbers = _unpacked("d", response.numbers, rows * layout.numbers)
        self._integers = _unpacked("q", response.integers, rows * layout.integers)
        self._texts: Sequence[str] = response.texts
        self._times = _unpacked("q", response.times, rows * layout.views)
        self._statuses = response.statuses
        self._remembered = response.remembered
        if len(self._texts) != rows * layout.texts or len(self._statuses) not in (
            *(0, rows * len(layout.places)),
        ):
            raise ValueError("features of other rows")

    def part(self, start: int, end: int) -> FeatureColumns:
        """The columns of some rows."""
        layout = self.layout
        width = len(layout.places)
        values: dict[int, tuple[Sequence[Any], int]] = {
            _NUMBER: (self._numbers, layout.numbers),
            _INTEGER: (self._integers, layout.integers),
            _TEXT: (self._texts, layout.texts),
        }
        times = [
            list(self._times[start * layout.views + at : end * layout.views : layout.views])
            for at in range(layout.views)
        ]
        statuses = self._statuses[start * width : end * width]
        missing = statuses.count(PRESENT) != len(statuses)
        columns: FeatureColumns = {}
        for order, (name, kind, at, view) in enumerate(layout.places):
            source, step = values[kind]
            column = FeatureColumn(list(source[start * step + at : end * step : step]))
            column.times = times[view]
            column.remembered = self._remembered
            if kind == _TEXT:
                column.text = True
                column.values = [value or None for value in column.values]
            if missing:
                column.values, column.statuses = _known(
                    column.values, statuses[order::width], text=False
                )
            columns[name] = column
        return columns


def columns_of_frame(
    response: dataplane_pb2.ReadFeaturesResponse, parts: Sequence[Rows]
) -> list[FeatureColumns]:
    """The features of each request in the answer to a frame; raises ValueError for nonsense."""
    try:
        block = _Block(response, sum(part.rows for part in parts))
    except DecodeError as error:
        raise ValueError("no layout") from error
    found, start = [], 0
    for part in parts:
        end = start + part.rows
        found.append(block.part(start, end))
        start = end
    return found


def _unpacked(kind: str, data: bytes, count: int) -> Sequence[Any]:
    if len(data) != count * 8:
        raise ValueError("features of other rows")
    return _struct(kind, count).unpack(data)


@lru_cache(maxsize=1_024)
def _struct(kind: str, count: int) -> Struct:
    return Struct(f"<{count}{kind}")
