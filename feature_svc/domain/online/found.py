"""What a read of the online store finds: row by row, as the models want it, or by features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, IntEnum
from itertools import chain
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from feature_svc.domain.definitions import ValueType

Value: TypeAlias = float | int | str | None
Numbers: TypeAlias = npt.NDArray[np.float64]
Integers: TypeAlias = npt.NDArray[np.int64]
Statuses: TypeAlias = npt.NDArray[np.uint8]


class Status(IntEnum):
    """Whether a value could be had; the numbers of `modelyard.data.v1.ValueStatus`."""

    PRESENT = 1
    NULL = 2
    NOT_FOUND = 3
    EXPIRED = 4


class Kind(Enum):
    """Where the values of a feature lie."""

    NUMBER = 1
    INTEGER = 2
    TEXT = 3


KINDS = {
    ValueType.DOUBLE: Kind.NUMBER,
    ValueType.INT64: Kind.INTEGER,
    ValueType.BOOL: Kind.INTEGER,
    ValueType.STRING: Kind.TEXT,
}
"""Where the values of each type lie."""


class Place(NamedTuple):
    """Where a feature is found in a row.

    Attributes:
        at: Its place among the values of its kind.
        view: Place of its view among the times.
    """

    name: str
    type: ValueType
    at: int
    view: int

    @property
    def kind(self) -> Kind:
        """Where its values lie."""
        return KINDS[self.type]


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """What a row of a feature service is; each is equal to itself alone.

    Attributes:
        places: One a feature, in the order of the service.
    """

    places: tuple[Place, ...]


@dataclass(frozen=True, slots=True)
class FeatureColumn:
    """A feature of some rows.

    Attributes:
        values: One a row, None where its status is not PRESENT.
        statuses: One byte a row.
        times: When each value became known, microseconds since the epoch, 0 when unknown.
    """

    name: str
    type: ValueType
    values: list[Value]
    statuses: bytes
    times: list[int]


@dataclass(slots=True)
class FeatureRows:
    """The features of some rows.

    Attributes:
        numbers: Rows x features of this kind; NaN where a value is missing.
        integers: The same of theirs; 0 where one is missing.
        texts: A list a row; empty texts where one is missing.
        statuses: Rows x features, in the order of the service; nothing when all are PRESENT.
        times: Rows x views: when their values became known, microseconds since the epoch; 0 when
            unknown.
        remembered: Whether they were read before, as the store does not answer now.
    """

    layout: Layout
    numbers: Numbers
    integers: Integers
    texts: Sequence[Sequence[str]]
    statuses: Statuses | None
    times: Integers
    remembered: bool = False

    def columns(self) -> list[FeatureColumn]:
        """The same by features, in the order of the service."""
        times = [column.tolist() for column in self.times.T]
        present = bytes([Status.PRESENT]) * len(self.times)
        columns = []
        for order, place in enumerate(self.layout.places):
            values, statuses = self._values(place), present
            if self.statuses is not None:
                statuses = self.statuses[:, order].tobytes()
                values = [
                    value if status == Status.PRESENT else None
                    for value, status in zip(values, statuses, strict=True)
                ]
            columns.append(
                FeatureColumn(place.name, place.type, values, statuses, times[place.view])
            )
        return columns

    def _values(self, place: Place) -> list[Any]:
        if place.kind is Kind.TEXT:
            return [row[place.at] for row in self.texts]
        source = self.numbers if place.kind is Kind.NUMBER else self.integers
        values: list[Any] = source[:, place.at].tolist()
        return values


def side_by_side(parts: Sequence[FeatureRows], layout: Layout, order: Sequence[int]) -> FeatureRows:
    """Parts of the same rows as one.

    Args:
        order: For each feature in the order of the service, its place among those of the parts.
    """
    statuses = None
    if any(part.statuses is not None for part in parts):
        whole = [_statuses_of(part) for part in parts]
        statuses = np.hstack(whole)[:, order]
    if len(parts) == 1:
        (part,) = parts
        return FeatureRows(layout, part.numbers, part.integers, part.texts, statuses, part.times)
    return FeatureRows(
        layout,
        np.hstack([part.numbers for part in parts]),
        np.hstack([part.integers for part in parts]),
        [list(chain.from_iterable(row)) for row in zip(*(p.texts for p in parts), strict=True)],
        statuses,
        np.hstack([part.times for part in parts]),
    )


def _statuses_of(part: FeatureRows) -> Statuses:
    if part.statuses is not None:
        return part.statuses
    return np.full((len(part.times), len(part.layout.places)), Status.PRESENT, np.uint8)
