"""Sketches of columns: counts over fixed cells, which add up over batches, windows and shards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Ints: TypeAlias = npt.NDArray[np.int64]
Floats: TypeAlias = npt.NDArray[np.float64]

#: Names of unseen categories that a sketch keeps, the most frequent ones.
KEPT_NEW_CATEGORIES = 20


@dataclass(frozen=True, slots=True, eq=False)
class NumericSketch:
    """Numbers of one column: a histogram over fixed edges and the first two moments.

    Attributes:
        cells: Counts, one more than edges; cell i holds edge[i-1] < x <= edge[i].
        missing: Rows without a value.
        mean: Mean of the values, 0 when there are none.
        m2: Sum of squared deviations from the mean.
        minimum: Least value, +inf when there are none.
        maximum: Greatest value, -inf when there are none.
    """

    cells: Ints
    missing: int = 0
    mean: float = 0.0
    m2: float = 0.0
    minimum: float = float("inf")
    maximum: float = float("-inf")

    @property
    def count(self) -> int:
        """Rows with a value."""
        return int(self.cells.sum())

    @property
    def deviation(self) -> float:
        """Standard deviation of the sample; 0 for fewer than two values."""
        count = self.count
        return float(np.sqrt(self.m2 / (count - 1))) if count > 1 else 0.0

    def merge(self, other: NumericSketch) -> NumericSketch:
        """The sketch of both columns together (Chan, Golub, LeVeque 1983 for the moments)."""
        mine, theirs = self.count, other.count
        total = max(mine + theirs, 1)
        delta = other.mean - self.mean
        return NumericSketch(
            cells=self.cells + other.cells,
            missing=self.missing + other.missing,
            mean=(mine * self.mean + theirs * other.mean) / total,
            m2=self.m2 + other.m2 + delta * delta * mine * theirs / total,
            minimum=min(self.minimum, other.minimum),
            maximum=max(self.maximum, other.maximum),
        )


@dataclass(frozen=True, slots=True, eq=False)
class CategoricalSketch:
    """Categories of one column: counts over known ones, `other` (known, rare) and `new`.

    Attributes:
        cells: Counts of the known categories, then of `other`, then of `new`.
        missing: Rows without a value.
        new: Names of unseen categories with their counts, the most frequent ones only.
    """

    cells: Ints
    missing: int
    new: Mapping[str, int]

    @property
    def count(self) -> int:
        """Rows with a value."""
        return int(self.cells.sum())

    def merge(self, other: CategoricalSketch) -> CategoricalSketch:
        """The sketch of both columns together; names of unseen categories stay bounded."""
        return CategoricalSketch(
            cells=self.cells + other.cells,
            missing=self.missing + other.missing,
            new=keep_most_frequent(_added(self.new, other.new)),
        )


Sketch: TypeAlias = NumericSketch | CategoricalSketch


def numeric_by_group(
    values: Floats, groups: Ints, group_count: int, edges: Floats
) -> list[NumericSketch]:
    """Sketch a column for each group of rows in one pass.

    Args:
        values: float64, one a row, NaN where missing.
        groups: Group of each row, 0 to group_count - 1.
        group_count: Number of sketches to give.
        edges: Increasing edges of the cells.
    """
    present = ~np.isnan(values)
    missing = np.bincount(groups[~present], minlength=group_count)
    values, groups = values[present], groups[present]
    width = len(edges) + 1
    cells = np.bincount(
        groups * width + np.searchsorted(edges, values, side="left"),
        minlength=group_count * width,
    ).reshape(group_count, width)
    count = np.maximum(cells.sum(axis=1), 1)
    mean = np.bincount(groups, weights=values, minlength=group_count) / count
    m2 = np.bincount(groups, weights=(values - mean[groups]) ** 2, minlength=group_count)
    least, greatest = np.full(group_count, np.inf), np.full(group_count, -np.inf)
    np.minimum.at(least, groups, values)
    np.maximum.at(greatest, groups, values)
    return [
        NumericSketch(
            cells[i].astype(np.int64), int(missing[i]), float(mean[i]), float(m2[i]),
            float(least[i]), float(greatest[i]),
        )
        for i in range(group_count)
    ]  # fmt: skip


def categorical_by_group(
    labels: Sequence[str],
    groups: Ints,
    group_count: int,
    index: Mapping[str, int],
    known: int,
) -> list[CategoricalSketch]:
    """Sketch a column of categories for each group of rows.

    Args:
        labels: One a row; the empty string where missing.
        groups: Group of each row.
        group_count: Number of sketches to give.
        index: Cell of each category seen in the reference; rare ones map to `known`.
        known: Number of categories with a cell of their own.
    """
    unseen = known + 1
    codes = np.fromiter(
        (index.get(label, unseen) if label else -1 for label in labels), np.int64, len(labels)
    )
    present = codes >= 0
    width = known + 2
    cells = np.bincount(
        groups[present] * width + codes[present], minlength=group_count * width
    ).reshape(group_count, width)
    missing = np.bincount(groups[~present], minlength=group_count)
    new = _names_by_group(labels, groups, group_count, np.flatnonzero(codes == unseen))
    return [
        CategoricalSketch(cells[i].astype(np.int64), int(missing[i]), new[i])
        for i in range(group_count)
    ]


def _names_by_group(
    labels: Sequence[str], groups: Ints, group_count: int, rows: npt.NDArray[np.intp]
) -> list[dict[str, int]]:
    found: list[dict[str, int]] = [{} for _ in range(group_count)]
    for row in rows.tolist():
        names = found[int(groups[row])]
        names[labels[row]] = names.get(labels[row], 0) + 1
    return [keep_most_frequent(names) for names in found]


def keep_most_frequent(names: Mapping[str, int]) -> dict[str, int]:
    """The most frequent names, ties by name, at most :data:`KEPT_NEW_CATEGORIES`."""
    ranked = sorted(names.items(), key=lambda item: (-item[1], item[0]))
    return {name[:64]: count for name, count in ranked[:KEPT_NEW_CATEGORIES]}


def _added(first: Mapping[str, int], second: Mapping[str, int]) -> dict[str, int]:
    total = dict(first)
    for name, count in second.items():
        total[name] = total.get(name, 0) + count
    return total


def merge(first: Sketch, second: Sketch) -> Sketch:
    """Merge two sketches of one column; raises ValueError when their cells differ."""
    if isinstance(first, NumericSketch) and isinstance(second, NumericSketch):
        return first.merge(second)
    if isinstance(first, CategoricalSketch) and isinstance(second, CategoricalSketch):
        return first.merge(second)
    raise ValueError("sketches of different kinds cannot be merged")
