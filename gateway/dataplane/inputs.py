"""What a model wants: checks of what callers give, and the matrix that a replica takes. Pure."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from math import isnan, nan
from operator import itemgetter
from struct import Struct
from typing import Any

import numpy as np

from service_kit.errors import InvalidArgument

Columns = dict[str, list[Any]]
"""Values by field, one a row; None or NaN where a value is missing."""
Where = Callable[[int, str], str]
"""The path of a field in the request, by row and name."""

_NUMBERS = frozenset((int, float))
#: Numbers from which on arrays of them are worth making.
_MANY = 100
FLOAT32_MAX = 3.4028234663852886e38
#: Characters of a text that a caller gives.
MOST_TEXT = 512


@dataclass(frozen=True, slots=True)
class InputField:
    """One column of the matrix.

    Attributes:
        codes: Code of each category; nothing for a number.
        looked_up: True when the online store gives it, False when the caller does.
        required: Whether a missing value is refused.
    """

    name: str
    codes: Mapping[str, int] | None
    looked_up: bool
    required: bool


@dataclass(frozen=True, slots=True)
class InputPlan:
    """Inputs and outputs of a version, ready for use.

    Attributes:
        fields: Columns of the matrix, in order.
        entity_keys: Keys that the feature service needs.
        feature_service: Its name, or empty when nothing is looked up.
        given: The fields that the caller gives.
        accepted: Names of everything that the caller may give.
        plain: Takes the inputs out of an instance, when they are two numbers or more and all that
            the model wants; KeyError when one is missing.
    """

    fields: tuple[InputField, ...]
    outputs: tuple[str, ...]
    entity_keys: tuple[str, ...]
    feature_service: str
    given: tuple[InputField, ...]
    looked_up: tuple[InputField, ...]
    accepted: frozenset[str]
    plain: Callable[[Mapping[str, Any]], tuple[Any, ...]] | None


def make_plan(
    fields: Sequence[InputField],
    outputs: Sequence[str],
    entity_keys: Sequence[str],
    feature_service: str,
) -> InputPlan:
    """A plan of a signature."""
    given = tuple(field for field in fields if not field.looked_up)
    plain = len(given) == len(fields) > 1 and not entity_keys
    plain = plain and all(field.codes is None for field in fields)
    return InputPlan(
        fields=tuple(fields),
        outputs=tuple(outputs),
        entity_keys=tuple(entity_keys),
        feature_service=feature_service,
        given=given,
        looked_up=tuple(field for field in fields if field.looked_up),
        accepted=frozenset((*entity_keys, *(field.name for field in given))),
        plain=itemgetter(*(field.name for field in fields)) if plain else None,
    )


def instance_path(row: int, name: str) -> str:
    """The path of an instance's field, e.g. `instances[0].carrier`."""
    return f"instances[{row}].{name}"


def collect(
    plan: InputPlan,
    instances: Sequence[Mapping[str, Any]],
    rows: Sequence[int],
    where: Where,
    found: list[InvalidArgument],
) -> Columns:
    """The columns that callers gave, checked; what is wrong is appended to `found`.

    Args:
        rows: Places of the instances in the request.
    """
    columns: Columns = {}
    for key in plan.entity_keys:
        values = [instance.get(key) for instance in instances]
        for row, value in zip(rows, values, strict=True):
            if type(value) not in (str, int) or value == "":
                found.append(_entity_problem(value, where(row, key)))
            elif not _fits(value):
                found.append(_out_of_range(where(row, key)))
        columns[key] = values
    for field in plan.given:
        values = [instance.get(field.name) for instance in instances]
        check = _check_number if field.codes is None else _check_text
        for row, value in zip(rows, values, strict=True):
            error = check(field, value)
            if error is not None:
                found.append(InvalidArgument(*error, field=where(row, field.name)))
        columns[field.name] = values
    return columns


def plain_inputs(
    plan: InputPlan, instances: Sequence[Mapping[str, Any]]
) -> tuple[Sequence[float], bytes] | None:
    """The numbers of instances that hold nothing but good ones, row-major, and their matrix.

    Nothing for any other. What `collect` and `encode_rows` would make of them, for a fraction of
    the time.
    """
    if plan.plain is None:
        return None
    try:
        values = list(chain.from_iterable(map(plan.plain, instances)))
    except KeyError:
        return None
    if not _NUMBERS.issuperset(map(type, values)):
        return None
    if len(values) < _MANY:
        # NaN, of which no comparison knows, makes the sum NaN.
        if min(values) < -FLOAT32_MAX or max(values) > FLOAT32_MAX or isnan(sum(values)):
            return None
        return values, encode_floats(values)
    try:
        numbers = np.array(values, np.float64)
    except OverflowError:
        return None
    if not (np.abs(numbers) <= FLOAT32_MAX).all():
        return None
    return array("d", numbers.tobytes()), numbers.astype("<f4").tobytes()


def encode_rows(plan: InputPlan, columns: Mapping[str, list[Any]], rows: int) -> bytes:
    """The matrix: float32, little-endian, row-major rows x fields.

    A category is its code, an unknown one -1, a missing value NaN.
    """
    encoded = [_encoded(field, columns.get(field.name), rows) for field in plan.fields]
    if rows == 1:
        return encode_floats([column[0] for column in encoded])
    return encode_floats([value for row in zip(*encoded, strict=True) for value in row])


def encode_floats(values: Sequence[float]) -> bytes:
    """Numbers as float32, little-endian; raises OverflowError for one that is too large."""
    return _floats(len(values)).pack(*values)


def decode_floats(data: bytes) -> tuple[float, ...]:
    """Numbers of float32, little-endian."""
    return _floats(len(data) // 4).unpack(data)


@lru_cache(maxsize=1_024)
def _floats(count: int) -> Struct:
    return Struct(f"<{count}f")


def _encoded(field: InputField, values: list[Any] | None, rows: int) -> list[float]:
    if values is None:
        return [nan] * rows
    codes = field.codes
    if codes is None:
        return [nan if value is None else value for value in values]
    return [nan if value is None else codes.get(value, -1) for value in values]


def _entity_problem(value: Any, path: str) -> InvalidArgument:
    if value is None or value == "":
        return InvalidArgument("FIELD_MISSING", "is needed to look up features", field=path)
    return InvalidArgument("WRONG_TYPE", "must be a string or an integer", field=path)


def _fits(value: Any) -> bool:
    if isinstance(value, str):
        return len(value) <= MOST_TEXT
    return bool(-(2**63) <= value < 2**63)


def _out_of_range(path: str) -> InvalidArgument:
    return InvalidArgument("OUT_OF_RANGE", "is too long or too large", field=path)


def _check_number(field: InputField, value: Any) -> tuple[str, str] | None:
    kind = type(value)
    if kind is float or kind is int:
        if -FLOAT32_MAX <= value <= FLOAT32_MAX:
            return None
        if value != value or abs(value) == float("inf"):
            return "NOT_FINITE", "must be a finite number"
        return "OUT_OF_RANGE", "is too large for a 32-bit float"
    if value is None:
        return ("FIELD_MISSING", "is required") if field.required else None
    return "WRONG_TYPE", "must be a finite number"


def _check_text(field: InputField, value: Any) -> tuple[str, str] | None:
    if type(value) is str:
        return None if len(value) <= MOST_TEXT else ("OUT_OF_RANGE", "is too long")
    if value is None:
        return ("FIELD_MISSING", "is required") if field.required else None
    return "WRONG_TYPE", "must be a string"
