"""Tables as they travel: Arrow IPC streams and rows as JSON."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from feature_svc.domain import Field, ValueType, schema_of
from service_kit.errors import InvalidArgument

MAX_TABLE_BYTES = 32 << 20
MAX_CHUNK_BYTES = 1 << 20


def from_arrow_ipc(data: bytes, *, path: str = "table.arrow_ipc") -> Any:
    """Reads an Arrow IPC stream that nobody vouches for.

    Raises:
        InvalidArgument: `TABLE_TOO_LARGE` above 32 MiB, also unpacked; `INVALID_TABLE`.
    """
    if len(data) > MAX_TABLE_BYTES:
        raise InvalidArgument("TABLE_TOO_LARGE", "is larger than 32 MiB", field=path)
    try:
        with pa.ipc.open_stream(data) as reader:
            batches, size = [], 0
            for batch in reader:
                # A compressed stream of a few bytes may unpack to any size.
                size += batch.nbytes
                if size > 4 * MAX_TABLE_BYTES:
                    raise InvalidArgument("TABLE_TOO_LARGE", "unpacks to too much", field=path)
                batch.validate(full=True)
                batches.append(batch)
            return pa.Table.from_batches(batches, reader.schema)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InvalidArgument("INVALID_TABLE", "is no Arrow IPC stream", field=path) from error


def from_json_rows(
    rows: Sequence[Mapping[str, Any]], fields: Sequence[Field], *, path: str = "table.json.rows"
) -> Any:
    """Makes a table of JSON objects; timestamps are RFC 3339 strings, whole numbers may be int64.

    Raises:
        InvalidArgument: `UNEVEN_ROWS` when keys differ, `WRONG_TYPE`, `UNKNOWN_COLUMN`.
    """
    types = {each.name: each.type for each in fields}
    names = list(rows[0]) if rows else list(types)
    for at, row in enumerate(rows):
        if row.keys() != set(names):
            raise InvalidArgument("UNEVEN_ROWS", "has other keys", field=f"{path}[{at}]")
    for name in names:
        if name not in types:
            raise InvalidArgument(
                "UNKNOWN_COLUMN", "the data source has no such column", field=f"{path}[0]"
            )
    wanted = schema_of([each for each in fields if each.name in names])
    columns = [
        [_value(row[name], types[name], f"{path}[{at}].{name}") for at, row in enumerate(rows)]
        for name in wanted.names
    ]
    return pa.table(
        [pa.array(values, each.type) for values, each in zip(columns, wanted, strict=True)],
        schema=wanted,
    )


def _value(value: Any, kind: ValueType, path: str) -> Any:
    if value is None:
        return None
    wrong = InvalidArgument("WRONG_TYPE", f"must be of type {kind}", field=path)
    if kind is ValueType.TIMESTAMP:
        return _instant(value, wrong)
    if kind is ValueType.INT64:
        if type(value) is float and value.is_integer() and abs(value) <= 2**53:
            return int(value)
        raise wrong
    expected = {ValueType.DOUBLE: float, ValueType.STRING: str, ValueType.BOOL: bool}[kind]
    if type(value) is not expected:
        raise wrong
    return value


def _instant(value: Any, wrong: InvalidArgument) -> datetime:
    try:
        moment = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        raise wrong from None
    if moment.tzinfo is None:
        raise wrong
    return moment.astimezone(UTC)


def to_chunks(table: Any) -> Iterator[bytes]:
    """A table as complete IPC streams of at most 1 MiB or one row each; at least one."""
    rows = max(table.num_rows, 1)
    average = max(table.nbytes // rows, 1)
    step = max(int(0.9 * MAX_CHUNK_BYTES) // average, 1)
    for start in range(0, rows, step):
        yield from _fitting(table.slice(start, step))


def _fitting(table: Any) -> Iterator[bytes]:
    data = to_arrow_ipc(table)
    if len(data) <= MAX_CHUNK_BYTES or table.num_rows <= 1:
        yield data
        return
    half = table.num_rows // 2
    yield from _fitting(table.slice(0, half))
    yield from _fitting(table.slice(half))


def to_arrow_ipc(table: Any) -> bytes:
    """A table as one Arrow IPC stream."""
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()
