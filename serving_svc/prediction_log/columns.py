"""A batch of the stream as an Arrow table, and a row of such a table as a domain object.

Columns `input.{name}` hold what went in, `known.{name}` when a looked-up value became known.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import date
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from modelyard.events.v1 import events_pb2

from serving_svc.domain.predictions import LoggedRow
from serving_svc.prediction_log import id_column

ID, UNIT = "prediction_id", "unit_id"
_INPUT, _KNOWN = "input.", "known."
SHADOW, PRIMARY = "shadow", "primary"
#: Columns that only some files have.
MODEL_LATENCY, FAILURE, CACHED = "model_latency_us", "failure", "cached"
_TIME = pa.timestamp("us", tz="UTC")
_ROLE_AND_VERSION = ("role", "model_version")


def rows_of(batch: events_pb2.PredictionBatch) -> pa.Table:
    """The rows of a batch as they travel, with what they share; raises ValueError."""
    table = _read(batch.rows)
    rows = table.num_rows
    shadow = batch.role == events_pb2.PredictionBatch.ROLE_SHADOW
    table = table.append_column("variant", _same(batch.variant, rows))
    table = table.append_column("model_version", _same(batch.model_version, rows))
    table = table.append_column("role", _same(SHADOW if shadow else PRIMARY, rows))
    generation = pa.array(np.full(rows, batch.table_generation, np.int64))
    return table.append_column("table_generation", generation)


def table_of(rows: pa.Table) -> pa.Table:
    """Rows as the log keeps them; raises ValueError when they are not sound.

    Work on many at once: what it costs hardly depends on their number.
    """
    names = frozenset(rows.schema.names)
    if len(names) < len(rows.schema.names):
        raise ValueError("two columns of a batch have one name")
    texts = _column(rows, ID, pa.string()).combine_chunks()
    own = pa.nulls(rows.num_rows, pa.string())
    columns = {
        ID: id_column.column_of(id_column.read_ids(texts)),
        "event_time": _column(rows, "event_time", _TIME),
        UNIT: _column(rows, UNIT, pa.string()) if UNIT in names else own,
        "variant": rows["variant"],
        "model_version": rows["model_version"],
        "role": rows["role"],
        **(_failed(rows) if FAILURE in names else _scored(rows)),
        "table_generation": rows["table_generation"],
    }
    for name in rows.schema.names:
        if is_input(name):
            columns[name] = _input(rows[name])
        elif name.startswith(_KNOWN):
            columns[name] = _cast(rows[name], _TIME)
    return pa.table(columns).unify_dictionaries().combine_chunks()


def by_day(table: pa.Table) -> dict[date, pa.Table]:
    """The rows of each day (UTC) on which they were asked for; raises ValueError."""
    days = id_column.days_of(id_column.ids_of(table[ID]))
    found = {each: id_column.day_of(each) for each in np.unique(days).tolist()}
    if len(found) == 1:
        return dict.fromkeys(found.values(), table)
    return {day: table.filter(pa.array(days == each)) for each, day in found.items()}


def in_order(table: pa.Table, most: int) -> Iterator[pa.Table]:
    """The rows by id, each once (one id, role and version is one row), some at a time.

    Args:
        table: In one piece, for speed.
        most: Rows of a part.
    """
    places = _places(table)
    for at in range(0, table.num_rows if places is None else len(places), most):
        if places is None:
            yield table.slice(at, most)
        else:
            yield table.take(pa.array(places[at : at + most]))


def _places(table: pa.Table) -> npt.NDArray[np.intp] | None:
    """Where the rows of a file come from; nothing when they are in order and each once."""
    ids = id_column.ids_of(table[ID])
    order = id_column.order_of(ids)
    if order is None:
        return None
    repeated = _as_before(ids, order)
    if not repeated.any():
        return order
    # Shadows share the ids of what they shadow.
    codes = [_codes(table[name]) for name in _ROLE_AND_VERSION]
    first, last = id_column.halves(ids)
    keys: tuple[Any, ...] = (*codes, last, first)
    order = np.lexsort(keys)
    repeated = _as_before(ids, order)
    for each in codes:
        repeated &= _as_before(each, order)
    return order[~repeated]


def _as_before(values: npt.NDArray[Any], order: npt.NDArray[np.intp]) -> npt.NDArray[np.bool_]:
    """Which rows are, in an order, as the one before."""
    ordered = values[order].reshape(len(order), -1)
    same = np.zeros(len(order), np.bool_)
    same[1:] = (ordered[1:] == ordered[:-1]).all(axis=1)
    return same


def _codes(names: pa.ChunkedArray) -> npt.NDArray[np.int32]:
    codes: npt.NDArray[np.int32] = names.combine_chunks().indices.to_numpy()
    return codes


def stored(schema: pa.Schema) -> pa.Schema:
    """A schema as files have it: ids are UUIDs to whoever reads them."""
    place = schema.get_field_index(ID)
    return schema.set(place, pa.field(ID, pa.uuid()))


def as_stored(table: pa.Table) -> pa.Table:
    """A table in one piece with its ids as files have them."""
    place = table.schema.get_field_index(ID)
    ids = pa.ExtensionArray.from_storage(pa.uuid(), table[ID].combine_chunks())
    return table.set_column(place, pa.field(ID, pa.uuid()), ids)


def as_kept(table: pa.Table) -> pa.Table:
    """A table that was read from a file, with its ids as their sixteen bytes."""
    ids = pa.chunked_array([each.storage for each in table[ID].chunks], id_column.TYPE)
    return table.set_column(table.schema.get_field_index(ID), ID, ids)


def is_input(name: str) -> bool:
    """Whether a column holds what went in."""
    return name.startswith(_INPUT)


def shape_of(table: pa.Table) -> str:
    """Hash of the names and types of the columns."""
    text = "\n".join(f"{field.name} {field.type}" for field in table.schema)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def row_of(values: dict[str, Any], endpoint_id: str) -> LoggedRow:
    """One row."""
    return LoggedRow(
        prediction_id=(prediction_id := id_column.text_of(values[ID])),
        endpoint_id=endpoint_id,
        variant=values["variant"],
        model_version=values["model_version"],
        shadow=values["role"] == SHADOW,
        score=values["score"],
        unit_id=values[UNIT] or prediction_id,
        event_time=values["event_time"],
        latency_us=values["latency_us"],
        fallback=values["fallback"],
        table_generation=values["table_generation"],
        inputs=_named(values, _INPUT),
        failure=values.get(FAILURE) or "",
        cached=bool(values.get(CACHED)),
        known={name: at for name, at in _named(values, _KNOWN).items() if at is not None},
    )


def _named(values: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {
        name.removeprefix(prefix): value
        for name, value in values.items()
        if name.startswith(prefix)
    }


def _scored(rows: pa.Table) -> dict[str, pa.ChunkedArray]:
    said = "fallback" in rows.schema.names
    columns = {
        "score": _column(rows, "score", pa.float64()),
        "latency_us": _column(rows, "latency_us", pa.uint32()),
        "fallback": _names(rows, "fallback") if said else _same("", rows.num_rows),
    }
    for name, kind in ((MODEL_LATENCY, pa.uint32()), (CACHED, pa.bool_())):
        if name in rows.schema.names:
            columns[name] = _column(rows, name, kind)
    return columns


def _failed(rows: pa.Table) -> dict[str, pa.ChunkedArray]:
    """Of rows that a shadow did not score."""
    count = rows.num_rows
    return {
        "score": pa.nulls(count, pa.float64()),
        "latency_us": pa.array(np.zeros(count, np.uint32)),
        "fallback": _same("", count),
        FAILURE: _names(rows, FAILURE),
    }


def _read(stream: bytes) -> pa.Table:
    try:
        with pa.ipc.open_stream(stream) as reader:
            table = reader.read_all()
        table.validate(full=True)
    except (pa.ArrowException, OSError) as error:
        raise ValueError("the rows of a batch are no Arrow stream") from error
    return table


def _same(text: str, rows: int) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(np.zeros(rows, np.int32), pa.array([text], pa.string()))


def _names(rows: pa.Table, name: str) -> pa.ChunkedArray:
    return _column(rows, name, pa.string()).dictionary_encode()


def _column(table: pa.Table, name: str, kind: pa.DataType) -> pa.ChunkedArray:
    if name not in table.schema.names or table[name].null_count:
        raise ValueError(f"a batch has no {name} for every row")
    return _cast(table[name], kind)


def _input(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if not pa.types.is_floating(column.type):
        return _cast(column, pa.string())
    # As precise as it came: what a model saw in single precision takes half the room.
    numbers = column if column.type in (pa.float32(), pa.float64()) else column.cast(pa.float32())
    missing = pc.is_nan(numbers)
    # A missing number travels as NaN, too.
    return pc.if_else(missing, None, numbers) if pc.any(missing).as_py() else numbers


def _cast(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    try:
        return column.cast(kind)
    except pa.ArrowException as error:
        raise ValueError("a column of a batch is of another type") from error
