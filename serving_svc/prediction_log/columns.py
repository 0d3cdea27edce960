"""A batch of the stream as an Arrow table, and a row of such a table as a domain object.

Columns `input.{name}` hold what went in, `known.{name}` when a looked-up value became known.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from modelyard.events.v1 import events_pb2

from serving_svc.domain.predictions import UUID7, LoggedRow, asked_at

ID = "prediction_id"
_INPUT, _KNOWN = "input.", "known."
SHADOW, PRIMARY = "shadow", "primary"
#: Columns that only some files have.
MODEL_LATENCY, FAILURE, CACHED = "model_latency_us", "failure", "cached"
_TIME = pa.timestamp("us", tz="UTC")
_IDENTITY = (ID, "role", "model_version")


def rows_of(batch: events_pb2.PredictionBatch) -> pa.Table:
    """The rows of a batch as they travel, with what they share; raises ValueError."""
    table = _read(batch.rows)
    shadow = batch.role == events_pb2.PredictionBatch.ROLE_SHADOW
    shared = {
        "variant": pa.scalar(batch.variant),
        "model_version": pa.scalar(batch.model_version),
        "role": pa.scalar(SHADOW if shadow else PRIMARY),
        "table_generation": pa.scalar(batch.table_generation, pa.int64()),
    }
    for name, value in shared.items():
        table = table.append_column(name, pa.repeat(value, table.num_rows))
    return table


def table_of(rows: pa.Table) -> pa.Table:
    """Rows as the log keeps them; raises ValueError when they are not sound.

    Work on many at once: what it costs hardly depends on their number.
    """
    names = frozenset(rows.schema.names)
    if len(names) < len(rows.schema.names):
        raise ValueError("two columns of a batch have one name")
    ids = _column(rows, ID, pa.string())
    columns = {
        ID: ids,
        "event_time": _column(rows, "event_time", _TIME),
        "unit_id": _column(rows, "unit_id", pa.string()) if "unit_id" in names else ids,
        "variant": rows["variant"],
        "model_version": rows["model_version"],
        "role": rows["role"],
        **(_failed(rows) if FAILURE in names else _scored(rows)),
        "table_generation": rows["table_generation"],
    }
    for name in rows.schema.names:
        if name.startswith(_INPUT):
            columns[name] = _input(rows[name])
        elif name.startswith(_KNOWN):
            columns[name] = _cast(rows[name], _TIME)
    if not pc.all(pc.match_substring_regex(ids, f"^{UUID7}$"), min_count=0).as_py():
        raise ValueError("a prediction id is not a UUID of version 7")
    return pa.table(columns)


def by_day(table: pa.Table) -> dict[date, pa.Table]:
    """The rows of each day (UTC) on which they were asked for; raises ValueError."""
    if not table.num_rows:
        return {}
    ends = pc.min_max(table[ID]).as_py()
    first, last = (asked_at(ends[end]).date() for end in ("min", "max"))
    if first == last:
        return {first: table}
    days = np.array([asked_at(each).date() for each in table[ID].to_pylist()])
    return {day: table.filter(pa.array(days == day)) for day in sorted(set(days.tolist()))}


def in_order(table: pa.Table) -> pa.Table:
    """The rows by id, each once: one id, role and version is one row."""
    ordered = table.take(pc.sort_indices(table[ID])).combine_chunks()
    if not _repeats(ordered, (ID,)):
        return ordered
    # Shadows share the ids of what they shadow.
    ordered = table.sort_by([(name, "ascending") for name in _IDENTITY]).combine_chunks()
    repeated = _repeats(ordered, _IDENTITY)
    if not repeated:
        return ordered
    fresh = np.ones(ordered.num_rows, bool)
    fresh[repeated] = False
    return ordered.filter(pa.array(fresh))


def _repeats(ordered: pa.Table, names: Sequence[str]) -> list[int]:
    """The rows that are, in some columns, as the one before."""
    if ordered.num_rows < 2:
        return []
    same = None
    for name in names:
        column = ordered[name]
        equal = pc.equal(column.slice(1), column.slice(0, len(column) - 1))
        same = equal if same is None else pc.and_(same, equal)
    return [place + 1 for place in pc.indices_nonzero(same).to_pylist()]


def shape_of(table: pa.Table) -> str:
    """Hash of the names and types of the columns."""
    text = "\n".join(f"{field.name} {field.type}" for field in table.schema)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def row_of(values: dict[str, Any], endpoint_id: str) -> LoggedRow:
    """One row."""
    return LoggedRow(
        prediction_id=values[ID],
        endpoint_id=endpoint_id,
        variant=values["variant"],
        model_version=values["model_version"],
        shadow=values["role"] == SHADOW,
        score=values["score"],
        unit_id=values["unit_id"],
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
    unsaid = pa.repeat(pa.scalar(""), rows.num_rows)
    said = "fallback" in rows.schema.names
    columns = {
        "score": _column(rows, "score", pa.float64()),
        "latency_us": _column(rows, "latency_us", pa.uint32()),
        "fallback": _column(rows, "fallback", pa.string()) if said else unsaid,
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
        "latency_us": pa.repeat(pa.scalar(0, pa.uint32()), count),
        "fallback": pa.repeat(pa.scalar(""), count),
        FAILURE: _column(rows, FAILURE, pa.string()),
    }


def _read(stream: bytes) -> pa.Table:
    try:
        with pa.ipc.open_stream(stream) as reader:
            table = reader.read_all()
        table.validate(full=True)
    except (pa.ArrowException, OSError) as error:
        raise ValueError("the rows of a batch are no Arrow stream") from error
    return table


def _column(table: pa.Table, name: str, kind: pa.DataType) -> pa.ChunkedArray:
    if name not in table.schema.names or table[name].null_count:
        raise ValueError(f"a batch has no {name} for every row")
    return _cast(table[name], kind)


def _input(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if not pa.types.is_floating(column.type):
        return _cast(column, pa.string())
    # A missing number travels as NaN, too.
    numbers = _cast(column, pa.float64())
    return pc.if_else(pc.is_nan(numbers), None, numbers)


def _cast(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    try:
        return column.cast(kind)
    except pa.ArrowException as error:
        raise ValueError("a column of a batch is of another type") from error
