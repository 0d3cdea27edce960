"""From named columns to the float32 matrix that models see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Columns: TypeAlias = Mapping[str, NDArray[Any]]
Matrix: TypeAlias = NDArray[np.float32]

UNKNOWN = -1.0
SMOOTHING = 20.0


@dataclass(frozen=True, slots=True)
class Input:
    """One input: where it comes from, and its categories in code order when it has any."""

    name: str
    source: str
    required: bool
    categories: tuple[str, ...] = ()
    categorical: bool = False


def order_categories(values: NDArray[Any], labels: NDArray[np.float64]) -> tuple[str, ...]:
    """Orders categories by their smoothed mean label, so that trees may split them by order.

    For a binary label the best split of categories is one of this order (Breiman et al., CART,
    1984, section 4.2.2); a rare category is pulled towards the overall mean.
    """
    names, codes = np.unique(values.astype(str), return_inverse=True)
    counts = np.bincount(codes)
    sums = np.bincount(codes, labels)
    means = (sums + SMOOTHING * labels.mean()) / (counts + SMOOTHING)
    ranked = sorted(range(len(names)), key=lambda at: (means[at], str(names[at])))
    return tuple(str(names[at]) for at in ranked if str(names[at]) not in ("", "None", "nan"))


def encode(columns: Columns, inputs: Sequence[Input]) -> Matrix:
    """Encodes columns of n rows as an n x inputs matrix.

    A missing number is NaN, a category that is not known is -1.
    """
    rows = len(columns[inputs[0].name]) if inputs else 0
    matrix = np.empty((rows, len(inputs)), np.float32)
    for at, each in enumerate(inputs):
        values = columns[each.name]
        if each.categorical:
            matrix[:, at] = _codes(values, each.categories)
        else:
            matrix[:, at] = values.astype(np.float64)
    return matrix


def _codes(values: NDArray[Any], categories: Sequence[str]) -> NDArray[np.float64]:
    code = {category: float(at) for at, category in enumerate(categories)}
    names, inverse = np.unique(values.astype(str), return_inverse=True)
    table = np.array([code.get(str(name), UNKNOWN) for name in names])
    return table[inverse] if len(table) else np.empty(0)
