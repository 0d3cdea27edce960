"""A batch of the stream as an Arrow table, and a row of such a table as a domain object.

Columns `input.{name}` hold what went in, `known.{name}` when a looked-up value became known.
"""

from __future__ import annotations

import hashlib
from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from modelyard.data.v1 import data_pb2
from modelyard.events.v1 import events_pb2

from serving_svc.domain.predictions import UUID7, LoggedRow, asked_at

ID = "prediction_id"
_INPUT, _KNOWN = "input.", "known."
_SHADOW, _PRIMARY = "shadow", "primary"
_TIME = pa.timestamp("us", tz="UTC")
_IDENTITY = (ID, "role", "model_version")
_PRESENT = (data_pb2.VALUE_STATUS_UNSPECIFIED, data_pb2.VALUE_STATUS_PRESENT)


def table_of(batch: events_pb2.PredictionBatch) -> pa.Table:
    """The rows of a batch; raises ValueError when it is not sound."""
    count = len(batch.prediction_ids)
    shadow = batch.role == events_pb2.PredictionBatch.ROLE_SHADOW
    columns = {
        ID: pa.array(batch.prediction_ids, pa.string()),
        "event_time": pa.array(batch.event_times_us, pa.int64()).cast(_TIME),
        "unit_id": pa.array(batch.unit_ids, pa.string()),
        "variant": _same(batch.variant, count),
        "model_version": _same(batch.model_version, count),
        "role": _same(_SHADOW if shadow else _PRIMARY, count),
        "score": _numbers(batch.scores),
        "latency_us": pa.array(batch.latencies_us, pa.uint32()),
        "fallback": pa.array(batch.fallbacks, pa.string()) if batch.fallbacks else _same("", count),
        "table_generation": pa.repeat(pa.scalar(batch.table_generation, pa.int64()), count),
    }
    for column in batch.inputs:
        for name, values in _input(column).items():
            if name in columns:
                raise ValueError("two columns of a batch have one name")
            columns[name] = values
    if any(len(values) != count for values in columns.values()):
        raise ValueError("the columns of a batch differ in length")
    if not pc.all(pc.match_substring_regex(columns[ID], f"^{UUID7}$"), min_count=0).as_py():
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
    ordered = table.sort_by([(name, "ascending") for name in _IDENTITY]).combine_chunks()
    if ordered.num_rows < 2:
        return ordered
    repeated = None
    for name in _IDENTITY:
        column = ordered[name]
        same = pc.equal(column.slice(1), column.slice(0, len(column) - 1))
        repeated = same if repeated is None else pc.and_(repeated, same)
    fresh = pa.concat_arrays([pa.array([True]), *pc.invert(repeated).chunks])
    return ordered.filter(fresh)


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
        shadow=values["role"] == _SHADOW,
        score=values["score"],
        unit_id=values["unit_id"],
        event_time=values["event_time"],
        latency_us=values["latency_us"],
        fallback=values["fallback"],
        table_generation=values["table_generation"],
        inputs=_named(values, _INPUT),
        known={name: at for name, at in _named(values, _KNOWN).items() if at is not None},
    )


def _named(values: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {
        name.removeprefix(prefix): value
        for name, value in values.items()
        if name.startswith(prefix)
    }


def _input(column: data_pb2.Column) -> dict[str, pa.Array]:
    kind = column.WhichOneof("values")
    if kind == "strings":
        given = pa.array(column.strings.values, pa.string())
        values = pc.if_else(pc.equal(given, ""), None, given)
    elif kind == "int64s":
        values = pa.array(column.int64s.values, pa.int64())
    else:
        values = _numbers(column.doubles.values)
    if column.statuses:
        statuses = np.frombuffer(column.statuses, dtype=np.uint8)
        if len(statuses) != len(values):
            raise ValueError("the statuses of a column differ from it in length")
        values = pc.if_else(pa.array(np.isin(statuses, _PRESENT)), values, None)
    found = {_INPUT + column.name: values}
    if column.event_times_us:
        times = pa.array(column.event_times_us, pa.int64())
        known = pc.if_else(pc.greater(times, 0), times, None).cast(_TIME)
        found[_KNOWN + column.name] = known
    return found


def _numbers(values: Any) -> pa.Array:
    # NaN is how a missing number travels.
    return pa.array(np.array(values, dtype=np.float64), from_pandas=True)


def _same(value: str, count: int) -> pa.Array:
    return pa.repeat(pa.scalar(value, pa.string()), count)
