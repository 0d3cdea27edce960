"""Rows to the matrix that a model takes, whole columns at a time; rows that can't be are named."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from modelyard.data.v1 import data_pb2

Matrix = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]

FLOAT32_MAX = float(np.finfo(np.float32).max)
MISSING, WRONG_TYPE, NOT_FINITE, TOO_LARGE = (
    "FIELD_MISSING",
    "WRONG_TYPE",
    "NOT_FINITE",
    "OUT_OF_RANGE",
)


class Problems:
    """The first thing that is wrong with each row, if anything is."""

    def __init__(self, rows: int) -> None:
        self.fields = np.full(rows, "", dtype=object)
        self.reasons = np.full(rows, "", dtype=object)

    def add(self, rows: Mask, field: str, reason: str) -> None:
        """Say what is wrong with some rows."""
        fresh = rows & (self.reasons == "")
        self.fields[fresh], self.reasons[fresh] = field, reason

    @property
    def sound(self) -> Mask:
        """Rows with which nothing is wrong."""
        found: Mask = self.reasons == ""
        return found


def encode(
    fields: Sequence[data_pb2.InputField], columns: dict[str, pa.Array], problems: Problems
) -> Matrix:
    """The matrix, float32, rows x fields: a category is its code, an unknown one -1.

    A null and a NaN are missing values, NaN in the matrix unless the field is required.
    """
    rows = len(problems.reasons)
    matrix = np.full((rows, len(fields)), np.nan, dtype=np.float32)
    for place, field in enumerate(fields):
        numeric = field.kind != data_pb2.InputField.KIND_CATEGORICAL
        take = _numbers if numeric else _codes
        values = take(field, columns[field.name], problems)
        if field.required:
            problems.add(np.isnan(values), field.name, MISSING)
        matrix[:, place] = values
    return matrix


def _numbers(field: data_pb2.InputField, column: pa.Array, problems: Problems) -> Floats:
    values, readable = _as_floats(column)
    problems.add(~readable, field.name, WRONG_TYPE)
    problems.add(np.isinf(values), field.name, NOT_FINITE)
    too_large = np.abs(values) > FLOAT32_MAX
    problems.add(too_large, field.name, TOO_LARGE)
    return np.where(too_large, np.nan, values)


def _as_floats(column: pa.Array) -> tuple[Floats, Mask]:
    """The numbers of a column, and which of its values are any."""
    column = _plain(column)
    try:
        cast = column.cast(pa.float64(), safe=False)
        return cast.to_numpy(zero_copy_only=False).astype(np.float64), np.ones(len(cast), bool)
    except pa.ArrowException:
        parsed = [_parsed(value) for value in column.to_pylist()]
        values = np.array([np.nan if each is None else each for each in parsed], dtype=np.float64)
        return values, np.array([each is not None for each in parsed], dtype=np.bool_)


def _parsed(value: Any) -> float | None:
    if value is None:
        return float("nan")
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _codes(field: data_pb2.InputField, column: pa.Array, problems: Problems) -> Floats:
    column = _plain(column)
    if pa.types.is_null(column.type):
        return np.full(len(column), np.nan)
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        problems.add(column.is_valid().to_numpy(zero_copy_only=False), field.name, WRONG_TYPE)
        return np.full(len(column), np.nan)
    known = pa.array(list(field.categories), column.type)
    found = pc.index_in(column, value_set=known).fill_null(-1).to_numpy(zero_copy_only=False)
    missing = pc.fill_null(pc.equal(column, ""), fill_value=True).to_numpy(zero_copy_only=False)
    codes: Floats = np.where(missing, np.nan, found.astype(np.float64))
    return codes


def _plain(column: pa.Array) -> pa.Array:
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
