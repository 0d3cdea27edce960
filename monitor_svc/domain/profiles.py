"""The reference that windows are held against: cells from its own values, and its own blocks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from monitor_svc.domain.sketches import (
    CategoricalSketch,
    Floats,
    Ints,
    NumericSketch,
    Sketch,
    categorical_by_group,
    numeric_by_group,
)

#: Quantile cells of a numeric column; detectors merge neighbours as they need.
NUMERIC_CELLS = 128
#: Categories with a cell of their own.
MAX_CATEGORIES = 256
#: Blocks of the reference that are kept, evenly spread.
MAX_BLOCKS = 120


@dataclass(frozen=True, slots=True, eq=False)
class Numbers:
    """A numeric column: float64 values, NaN where missing."""

    values: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Labels:
    """A categorical column: strings, empty where missing."""

    values: Sequence[str]


Values = Numbers | Labels


@dataclass(frozen=True, slots=True, eq=False)
class NumericProfile:
    """Cells of a numeric feature and what the reference has in them."""

    edges: Floats
    sketch: NumericSketch

    def sketches(self, column: Values, groups: Ints, group_count: int) -> list[NumericSketch]:
        """Sketch a column over these cells, one sketch a group; strings count as missing."""
        values = (
            column.values if isinstance(column, Numbers) else np.full(len(column.values), np.nan)
        )
        return numeric_by_group(values, groups, group_count, self.edges)


@dataclass(frozen=True, slots=True, eq=False)
class CategoricalProfile:
    """Categories of a feature and how often the reference has them.

    `rare` categories are known, and share one cell.
    """

    categories: tuple[str, ...]
    rare: tuple[str, ...]
    sketch: CategoricalSketch
    index: Mapping[str, int] = field(init=False)

    def __post_init__(self) -> None:
        index = {name: cell for cell, name in enumerate(self.categories)}
        index |= dict.fromkeys(self.rare, len(self.categories))
        object.__setattr__(self, "index", index)

    def sketches(self, column: Values, groups: Ints, group_count: int) -> list[CategoricalSketch]:
        """Sketch a column over these categories, one sketch a group."""
        labels = as_labels(column)
        return categorical_by_group(labels, groups, group_count, self.index, len(self.categories))


Profile = NumericProfile | CategoricalProfile


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """What a monitor's windows are held against.

    Attributes:
        profiles: By feature.
        row_count: Rows that it was made of.
        blocks: Sketches of its own windows by feature, oldest first; empty without a time column.
            They say how much a window differs from the whole when nothing has drifted.
    """

    profiles: Mapping[str, Profile]
    row_count: int
    blocks: tuple[Mapping[str, Sketch], ...] = ()


def build_reference(
    columns: Mapping[str, Values],
    row_count: int,
    times_us: Ints | None = None,
    window_us: int = 0,
    min_rows: int = 0,
) -> Reference:
    """Make the reference of a sample of rows.

    Args:
        columns: By feature, all of `row_count` values.
        row_count: Number of rows.
        times_us: Event time of each row, microseconds; enables the blocks.
        window_us: Length of a window.
        min_rows: Fewest rows of a block that counts.
    """
    profiles = {name: build_profile(column, row_count) for name, column in columns.items()}
    blocks: tuple[Mapping[str, Sketch], ...] = ()
    if times_us is not None and window_us > 0 and row_count:
        blocks = _blocks(profiles, columns, times_us // window_us, min_rows)
    return Reference(profiles, row_count, blocks)


def build_profile(column: Values, row_count: int) -> Profile:
    """Choose the cells of a column by its own values and count it over them."""
    groups = np.zeros(row_count, dtype=np.int64)
    if isinstance(column, Numbers):
        edges = quantile_edges(column.values)
        return NumericProfile(edges, numeric_by_group(column.values, groups, 1, edges)[0])
    counts = Counter(label for label in column.values if label)
    ranked = sorted(counts, key=lambda name: (-counts[name], name))
    kept, rare = tuple(ranked[:MAX_CATEGORIES]), tuple(ranked[MAX_CATEGORIES:])
    index = {name: cell for cell, name in enumerate(kept)} | dict.fromkeys(rare, len(kept))
    sketch = categorical_by_group(column.values, groups, 1, index, len(kept))[0]
    return CategoricalProfile(kept, rare, sketch)


def quantile_edges(values: Floats, cells: int = NUMERIC_CELLS) -> Floats:
    """Edges of about equally full cells, each once however many values tie.

    The first edge lies just below the least value and the last one is the greatest, so that the
    outermost cells count what is out of the reference's range.
    """
    present = values[~np.isnan(values)]
    if not len(present):
        return np.array([0.0])
    inner = np.quantile(present, np.arange(1, cells) / cells, method="inverted_cdf")
    least = np.nextafter(present.min(), -np.inf)
    return np.unique(np.concatenate([[least], inner, [present.max()]]))


def as_labels(column: Values) -> Sequence[str]:
    """The values as categories; whole numbers lose their fraction (7.0 becomes 7)."""
    if isinstance(column, Labels):
        return column.values
    return [
        "" if value != value else str(int(value)) if value.is_integer() else repr(value)
        for value in column.values.tolist()
    ]


def _blocks(
    profiles: Mapping[str, Profile], columns: Mapping[str, Values], windows: Ints, min_rows: int
) -> tuple[Mapping[str, Sketch], ...]:
    starts, groups, counts = np.unique(windows, return_inverse=True, return_counts=True)
    sketches: dict[str, Sequence[Sketch]] = {
        name: profile.sketches(columns[name], groups.astype(np.int64), len(starts))
        for name, profile in profiles.items()
    }
    # The first and the last block are often cut off: a piece of a window tells nothing of one.
    usable = np.flatnonzero(counts >= max(min_rows, 1, int(np.median(counts)) // 2))
    if len(usable) > MAX_BLOCKS:
        usable = usable[np.linspace(0, len(usable) - 1, MAX_BLOCKS).astype(np.int64)]
    return tuple({name: of[i] for name, of in sketches.items()} for i in usable.tolist())
