"""Tables to columns: the only file that imports pyarrow."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from monitor_svc.domain.profiles import Labels, Numbers, Values
from monitor_svc.domain.sketches import Floats, Ints
from monitor_svc.service.ports import ReferenceRows
from service_kit.errors import InvalidArgument

MAX_ROWS = 200_000
#: Fallbacks that are no answer of a model.
_NO_MODEL = pa.array(["default", "last_answer"])
#: Names by which the column of event times is preferred, when a table has several.
TIME_COLUMNS = ("event_timestamp", "event_time", "timestamp")


def from_arrow_streams(chunks: Iterable[bytes]) -> ReferenceRows:
    """Rows of one or more Arrow IPC streams of the same columns.

    Numbers and booleans become numeric columns, strings categorical ones, one timestamp column
    the event times; other types are left out. Raises InvalidArgument (`INVALID_TABLE`).
    """
    tables: list[pa.Table] = []
    rows = 0
    try:
        for chunk in chunks:
            with pa.ipc.open_stream(chunk) as reader:
                tables.append(reader.read_all())
            rows += tables[-1].num_rows
            if rows > MAX_ROWS:
                raise _invalid(f"has more than {MAX_ROWS} rows")
        if not tables:
            return ReferenceRows({}, 0)
        table = pa.concat_tables(tables, promote_options="permissive")
    except pa.ArrowException as error:
        raise _invalid("is no Arrow IPC stream") from error
    columns = {}
    for name in table.column_names:
        if (values := _values(table.column(name))) is not None:
            columns[name] = values
    return ReferenceRows(columns, table.num_rows, _times(table))


def from_log(stream: bytes) -> tuple[list[str], Ints, Floats, dict[str, Values]] | None:
    """Ids, event times (microseconds), scores and inputs by name of an event of predictions.

    Nothing when they are of rows that were not scored. Rows that a default or an earlier answer
    stands in for say nothing of a model and are left out. Raises ValueError when it is not sound.
    """
    try:
        with pa.ipc.open_stream(stream) as reader:
            table = reader.read_all()
        table.validate(full=True)
        names = table.schema.names
        if len(set(names)) < len(names):
            raise ValueError("two columns have one name")
        if "failure" in names:
            return None
        if "fallback" in names:
            table = table.filter(pc.invert(pc.is_in(table["fallback"], value_set=_NO_MODEL)))
        ids, times, scores = (table[name] for name in ("prediction_id", "event_time", "score"))
        if ids.null_count or times.null_count:
            raise ValueError("a prediction has no id or no time")
        inputs = {
            name.removeprefix("input."): _values(table[name])
            for name in names
            if name.startswith("input.")
        }
        return (
            ids.to_pylist(),
            np.array(times.cast(pa.timestamp("us", tz="UTC")).cast(pa.int64()), dtype=np.int64),
            np.array(pc.fill_null(scores.cast(pa.float64()), float("nan")), dtype=np.float64),
            {name: values for name, values in inputs.items() if values is not None},
        )
    except (KeyError, OSError, pa.ArrowException) as error:
        raise ValueError("the rows are no Arrow stream of predictions") from error


def from_objects(rows: Sequence[Mapping[str, object]]) -> ReferenceRows:
    """Rows as JSON objects; a column is numeric when all its values are."""
    names = dict.fromkeys(name for row in rows for name in row)
    columns: dict[str, Values] = {}
    for name in names:
        values = [row.get(name) for row in rows]
        present = [value for value in values if value is not None]
        if all(isinstance(value, int | float) for value in present):
            numbers = [np.nan if value is None else float(str(value)) for value in values]
            columns[name] = Numbers(_finite(np.array(numbers, dtype=np.float64)))
        else:
            columns[name] = Labels(["" if value is None else str(value) for value in values])
    return ReferenceRows(columns, len(rows))


def _values(column: pa.ChunkedArray) -> Values | None:
    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    if pa.types.is_boolean(kind):
        column, kind = column.cast(pa.int8()), pa.int8()
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        numbers = column.cast(pa.float64(), safe=False)
        filled = pc.fill_null(numbers, float("nan"))
        return Numbers(_finite(np.array(filled.to_numpy(), dtype=np.float64)))
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return Labels([value or "" for value in column.to_pylist()])
    return None


def _times(table: pa.Table) -> Ints | None:
    names = [f.name for f in table.schema if pa.types.is_timestamp(f.type)]
    preferred = [name for name in TIME_COLUMNS if name in names] or names
    if not preferred:
        return None
    column = table.column(preferred[0])
    if column.null_count:
        return None
    times = column.cast(pa.timestamp("us", tz=column.type.tz), safe=False)
    return np.array(times.cast(pa.int64()).to_numpy(), dtype=np.int64)


def _finite(values: Floats) -> Floats:
    values[~np.isfinite(values)] = np.nan
    return values


def _invalid(message: str) -> InvalidArgument:
    return InvalidArgument("INVALID_TABLE", f"the table {message}", field="monitor.reference_rows")
