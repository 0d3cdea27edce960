"""Cells of the online store to values: the numbers of all rows at once, all else one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from math import nan
from typing import TypeAlias

import numpy as np

from feature_svc.domain.definitions import ValueType
from feature_svc.domain.online import layout
from feature_svc.domain.online.found import (
    FeatureRows,
    Integers,
    Kind,
    Layout,
    Numbers,
    Place,
    Status,
    Statuses,
    Value,
)

Reply: TypeAlias = Sequence[bytes | None]

_NUMBER_CELL = np.dtype([("tag", "u1"), ("value", "<f8")])
_NUMBER_SIZE = _NUMBER_CELL.itemsize
_NUMBER_TAG = layout.ENCODERS[ValueType.DOUBLE](0.0)[:1]


@dataclass(frozen=True, slots=True)
class Cells:
    """How the reply to one command is read.

    Attributes:
        layout: Its features in the order of their cells: numbers, then integers, then texts.
        numbers: How many are numbers.
        integers: How many are integers.
        ttls: How long the values of each view hold, in microseconds; for ever when nothing. The
            times of the views follow the features' cells.
    """

    layout: Layout
    numbers: int
    integers: int
    ttls: tuple[int | None, ...]

    def rows(
        self, replies: Sequence[Reply], index: Sequence[int], moments: Sequence[int]
    ) -> FeatureRows:
        """The features of rows.

        Args:
            replies: One for each entity.
            index: Which reply belongs to each row.
            moments: When the values of each row must not have outlived their time to live.
        """
        found = self._read(replies)
        if len(replies) != len(index):
            found = _taken(found, index)
        for view, ttl in enumerate(self.ttls):
            if ttl is not None:
                oldest = np.array(moments, np.int64) - ttl
                _expire(found, view, oldest)
        return found

    def _read(self, replies: Sequence[Reply]) -> FeatureRows:
        places = self.layout.places
        stamps = [reply[len(places) :] for reply in replies]
        known = not any(None in row for row in stamps)
        numbers = _numbers(replies, self.numbers) if known and replies else None
        done = 0 if numbers is None else self.numbers
        values = [
            [_value(*each, stamp) for each in zip(places[done:], reply[done:], strict=False)]
            for reply, stamp in zip(replies, stamps, strict=True)
        ]
        if numbers is None:
            filled = [[nan if v is None else v for v in row[: self.numbers]] for row in values]
            numbers = np.array(filled, np.float64).reshape(len(replies), self.numbers)
        missing = any(None in row for row in values)
        first = self.numbers - done
        last = first + self.integers
        return FeatureRows(
            self.layout,
            numbers,
            _integers([[each or 0 for each in row[first:last]] for row in values], self.integers),
            [[str(each or "") for each in row[last:]] for row in values],
            _statuses(places, values, stamps) if missing else None,
            _integers([list(map(_time, row)) for row in stamps], len(self.ttls)),
        )


def _numbers(replies: Sequence[Reply], count: int) -> Numbers | None:
    """Replies x numbers; nothing when one of them is missing."""
    cells = list(chain.from_iterable(reply[:count] for reply in replies))
    if None in cells or not set(map(len, cells)) <= {_NUMBER_SIZE}:  # type: ignore[arg-type]
        return None
    data = b"".join(cells)  # type: ignore[arg-type]
    if data[::_NUMBER_SIZE] != _NUMBER_TAG * len(cells):
        return None
    values: Numbers = np.frombuffer(data, _NUMBER_CELL)["value"].reshape(len(replies), count)
    # Feast stores a null of pandas as NaN.
    return None if np.isnan(values).any() else values


def _value(place: Place, cell: bytes | None, stamps: Reply) -> Value:
    if cell is None or stamps[place.view] is None:
        return None
    return layout.DECODERS[place.type](cell)


def _time(stamp: bytes | None) -> int:
    return 0 if stamp is None else layout.decode_time(stamp)


def _statuses(
    places: Sequence[Place], values: Sequence[Sequence[Value]], stamps: Sequence[Reply]
) -> Statuses:
    """Rows x places; the last places are those of the values, all before them are there."""
    made = np.full((len(values), len(places)), Status.PRESENT, np.uint8)
    for row, (found, known) in enumerate(zip(values, stamps, strict=True)):
        done = len(places) - len(found)
        for at, value in enumerate(found, done):
            if value is None:
                unknown = known[places[at].view] is None
                made[row, at] = Status.NOT_FOUND if unknown else Status.NULL
    return made


def _integers(rows: Sequence[Sequence[Value]], width: int) -> Integers:
    return np.array(rows, np.int64).reshape(len(rows), width)


def _taken(found: FeatureRows, index: Sequence[int]) -> FeatureRows:
    at = np.array(index, np.intp)
    return FeatureRows(
        found.layout,
        found.numbers[at],
        found.integers[at],
        [found.texts[each] for each in index],
        None if found.statuses is None else found.statuses[at],
        found.times[at],
    )


def _expire(found: FeatureRows, view: int, oldest: Integers) -> None:
    """Takes out what a view knew before the oldest moment that still counts for its row."""
    late = found.times[:, view] < oldest
    if not late.any():
        return
    places = found.layout.places
    if found.statuses is None:
        found.statuses = np.full((len(late), len(places)), Status.PRESENT, np.uint8)
    found.numbers, found.integers = found.numbers.copy(), found.integers.copy()
    found.texts = texts = [list(row) for row in found.texts]
    for order, place in enumerate(places):
        if place.view != view:
            continue
        gone = late & (found.statuses[:, order] != Status.NOT_FOUND)
        found.statuses[gone, order] = Status.EXPIRED
        if place.kind is Kind.NUMBER:
            found.numbers[gone, place.at] = nan
        elif place.kind is Kind.INTEGER:
            found.integers[gone, place.at] = 0
        else:
            for row in np.flatnonzero(gone):
                texts[row][place.at] = ""
