"""From named columns to the float32 matrix that models see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from service_kit.errors import FailedPrecondition

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
    names, codes = np.unique(as_text(values), return_inverse=True)
    counts = np.bincount(codes)
    sums = np.bincount(codes, labels)
    means = (sums + SMOOTHING * labels.mean()) / (counts + SMOOTHING)
    ranked = sorted(range(len(names)), key=lambda at: (means[at], str(names[at])))
    return tuple(str(names[at]) for at in ranked if names[at])


def encode(columns: Columns, inputs: Sequence[Input]) -> Matrix:
    """Encodes columns of n rows as an n x inputs matrix.

    What is missing is NaN, a category that is not known is -1, and so does the gateway. A number
    beyond float32 counts as missing.

    Raises:
        FailedPrecondition: `INPUT_NOT_NUMERIC` names a column of text that is no category.
    """
    rows = len(columns[inputs[0].name]) if inputs else 0
    matrix = np.empty((rows, len(inputs)), np.float32)
    for at, each in enumerate(inputs):
        values = columns[each.name]
        if each.categorical:
            matrix[:, at] = _codes(values, each.categories)
        else:
            matrix[:, at] = numbers(values, each.name)
    matrix[np.isinf(matrix)] = np.nan
    return matrix


def numbers(values: NDArray[Any], name: str) -> NDArray[np.float32]:
    """Values as float32, missing ones as NaN.

    Raises:
        FailedPrecondition: `INPUT_NOT_NUMERIC`.
    """
    try:
        with np.errstate(over="ignore"):
            return values.astype(np.float64).astype(np.float32)
    except (TypeError, ValueError) as error:
        raise FailedPrecondition(
            "INPUT_NOT_NUMERIC", f"the input {name} is neither a number nor declared a category"
        ) from error


def as_text(values: NDArray[Any]) -> NDArray[np.str_]:
    """Categories as text: what is missing is empty, whole numbers have no fraction."""
    if values.dtype.kind != "O":
        values = values.astype(object)
    return np.array([_text(value) for value in values], np.str_)


def _text(value: Any) -> str:
    if value is None or value != value:  # NaN
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _codes(values: NDArray[Any], categories: Sequence[str]) -> NDArray[np.float64]:
    code = {category: float(at) for at, category in enumerate(categories)} | {"": np.nan}
    names, inverse = np.unique(as_text(values), return_inverse=True)
    table = np.array([code.get(str(name), UNKNOWN) for name in names], np.float64)
    return table[inverse]
