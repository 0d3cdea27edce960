"""Tables (Arrow): what they must look like, their canonical order and the hash of their content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from feature_svc.domain.definitions import Field, ValueType
from service_kit.errors import InvalidArgument

Table: TypeAlias = Any
Rows: TypeAlias = npt.NDArray[np.int64]

_TIMESTAMP = pa.timestamp("us", tz="UTC")
_ARROW = {
    ValueType.DOUBLE: pa.float64(),
    ValueType.INT64: pa.int64(),
    ValueType.STRING: pa.string(),
    ValueType.BOOL: pa.bool_(),
    ValueType.TIMESTAMP: _TIMESTAMP,
}
_LAST_MICROSECOND = 253_402_300_799_999_999  # 9999-12-31: what RFC 3339 and datetime can say


def _is_text(kind: Any) -> bool:
    types = pa.types
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def _is_number(kind: Any) -> bool:
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind))


def _is_instant(kind: Any) -> bool:
    return bool(pa.types.is_timestamp(kind) and kind.tz is not None)


_FITS: dict[ValueType, Callable[[Any], bool]] = {
    ValueType.DOUBLE: _is_number,
    ValueType.INT64: pa.types.is_integer,
    ValueType.STRING: _is_text,
    ValueType.BOOL: pa.types.is_boolean,
    ValueType.TIMESTAMP: _is_instant,
}


@dataclass(frozen=True, slots=True)
class TableRules:
    """What a table must look like to be taken.

    Attributes:
        fields: All columns of the source, in order.
        required: Columns that must be there; the others are null where they are missing.
        keys: Columns that identify entities: never null or empty.
        timestamp_field: Column with the time of each row: never null.
    """

    fields: Sequence[Field]
    required: Collection[str]
    keys: Collection[str]
    timestamp_field: str


def schema_of(fields: Sequence[Field]) -> Any:
    """The Arrow schema of columns: float64, int64, utf8, bool, timestamp[us, UTC]."""
    return pa.schema([(each.name, _ARROW[each.type]) for each in fields])


def conform(table: Table, rules: TableRules, *, path: str = "table") -> Table:
    """The table with the columns of its source, in their order and of their exact type.

    NaN becomes null; integers fit a double column; instants are cut to microseconds.

    Raises:
        InvalidArgument: A column is unknown, missing, of another type or holds what cannot be;
            `field` is the path of the column.
    """
    names: list[str] = table.column_names
    known = {each.name for each in rules.fields}
    for at, name in enumerate(names):
        if name not in known:
            raise InvalidArgument(
                "UNKNOWN_COLUMN",
                "the data source has no such column",
                field=f"{path}.columns[{at}]",
            )
        if names.index(name) != at:
            raise InvalidArgument("DUPLICATE_NAME", "appears twice", field=f"{path}.{name}")
    columns = []
    for each in rules.fields:
        if each.name in names:
            columns.append(_cast(table.column(each.name), each.type, f"{path}.{each.name}"))
        elif each.name in rules.required:
            raise InvalidArgument("MISSING_COLUMN", "is missing", field=f"{path}.{each.name}")
        else:
            columns.append(pa.chunked_array([pa.nulls(table.num_rows, _ARROW[each.type])]))
    made = pa.table(columns, schema=schema_of(rules.fields))
    for key in sorted(rules.keys):
        _check_key(made.column(key), f"{path}.{key}")
    _check_time(made.column(rules.timestamp_field), f"{path}.{rules.timestamp_field}")
    return made


def _cast(column: Any, kind: ValueType, path: str) -> Any:
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if not (pa.types.is_null(column.type) or _FITS[kind](column.type)):
        raise InvalidArgument("WRONG_TYPE", f"must be of type {kind}", field=path)
    # Only instants may lose something: what is below a microsecond.
    safe = kind is not ValueType.TIMESTAMP or getattr(column.type, "unit", "") != "ns"
    try:
        column = column.cast(_ARROW[kind], safe=safe)
    except pa.ArrowInvalid as error:
        raise InvalidArgument("OUT_OF_RANGE", f"does not fit {kind}", field=path) from error
    return _finite(column, path) if kind is ValueType.DOUBLE else column


def _finite(column: Any, path: str) -> Any:
    if pc.any(pc.is_inf(column)).as_py():
        raise InvalidArgument("NOT_FINITE", "holds infinity", field=path)
    # Adding zero makes -0.0 and 0.0, which sort as equals, the same bytes.
    known = pc.add(column, 0.0)
    return pc.if_else(pc.is_nan(known), pa.scalar(None, pa.float64()), known)


def _check_key(column: Any, path: str) -> None:
    if column.null_count or (
        pa.types.is_string(column.type) and pc.any(pc.equal(column, "")).as_py()
    ):
        raise InvalidArgument("MISSING_KEY", "an entity key is null or empty", field=path)


def _check_time(column: Any, path: str) -> None:
    if column.null_count:
        raise InvalidArgument("MISSING_TIMESTAMP", "a timestamp is null", field=path)
    span = pc.min_max(column.cast(pa.int64()))
    if len(column) and (span["min"].as_py() < 0 or span["max"].as_py() > _LAST_MICROSECOND):
        raise InvalidArgument("OUT_OF_RANGE", "must lie between 1970 and 9999", field=path)


def canonical_order(table: Table, first: str) -> Table:
    """The rows ordered by one column, then by all others in turn; duplicates stay."""
    others = [name for name in table.column_names if name != first]
    order = pc.sort_indices(table, sort_keys=[(name, "ascending") for name in [first, *others]])
    return table.take(order).combine_chunks()


def content_hash(table: Table, *, about: str = "") -> str:
    """The sha256 in hex of a table's schema and rows in their order; chunks make no difference.

    Args:
        table: As :func:`conform` leaves it.
        about: Further words to hash, e.g. the name of the source.
    """
    schema = [[field.name, str(field.type)] for field in table.schema]
    header = json.dumps([about, table.num_rows, schema], separators=(",", ":"))
    digest = hashlib.sha256(header.encode() + b"\n")
    for column in table.combine_chunks().columns:
        array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        digest.update(pc.is_valid(array).cast(pa.uint8()).to_numpy(zero_copy_only=False).tobytes())
        for piece in _bytes_of(array):
            digest.update(piece)
    return digest.hexdigest()


def _bytes_of(array: Any) -> tuple[bytes, ...]:
    kind = array.type
    if pa.types.is_string(kind):
        filled = pc.fill_null(array, "").cast(pa.large_binary())
        ends = np.frombuffer(filled.buffers()[1], np.int64)
        ends = ends[filled.offset : filled.offset + len(filled) + 1]
        data = filled.buffers()[2]
        text = b"" if data is None or not len(ends) else bytes(data[ends[0] : ends[-1]])
        return np.diff(ends).astype("<i8").tobytes(), text
    if pa.types.is_boolean(kind):
        return (pc.fill_null(array, False).cast(pa.uint8()).to_numpy().tobytes(),)
    if pa.types.is_timestamp(kind):
        array = array.cast(pa.int64())
    numbers = pc.fill_null(array, 0).to_numpy(zero_copy_only=False)
    return (numbers.astype(numbers.dtype.newbyteorder("<"), copy=False).tobytes(),)


def evenly_spread(total: int, wanted: int) -> Rows:
    """Positions of at most `wanted` of `total` rows at even distances; all when it is 0."""
    if wanted <= 0 or wanted >= total:
        return np.arange(total, dtype=np.int64)
    return np.arange(wanted, dtype=np.int64) * total // wanted
