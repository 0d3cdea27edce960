"""Rows of the log as events: what the contract of the streams says, in Arrow and protobuf."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from modelyard.events.v1 import events_pb2

from gateway.dataplane.inputs import InputPlan
from gateway.dataplane.log_rows import MOST_LATENCY_US, ExposureRow, PredictionRows
from service_kit.ids import LENGTH

_TIME = pa.timestamp("us", tz="UTC")
_END_OF_STREAM = b"\xff\xff\xff\xff\x00\x00\x00\x00"

Columns = dict[str, pa.Array]
"""Arrow arrays by the names that the contract gives them, each one value a row."""


def prediction_batch(rows: PredictionRows) -> events_pb2.PredictionBatch:
    """Predictions as the payload of one event."""
    kinds = events_pb2.PredictionBatch
    return kinds(
        endpoint=rows.route.endpoint,
        variant=rows.variant.name,
        model_version=rows.variant.model_version,
        role=kinds.ROLE_SHADOW if rows.shadow else kinds.ROLE_PRIMARY,
        table_generation=rows.route.generation,
        rows=_arrow_stream(_facts(rows) | _inputs(rows)),
    )


def exposure_batches(rows: Sequence[ExposureRow]) -> list[tuple[str, events_pb2.ExposureBatch]]:
    """Exposures as payloads, one an experiment, each with its endpoint."""
    groups: dict[Any, list[ExposureRow]] = {}
    for row in rows:
        groups.setdefault(row.key, []).append(row)
    return [(group[0].endpoint, _exposure_batch(group)) for group in groups.values()]


def _arrow_stream(columns: Columns) -> bytes:
    arrays = list(columns.values())
    schema, encoded = _schema(tuple(columns), tuple([each.type for each in arrays]))
    batch = pa.RecordBatch.from_arrays(arrays, schema=schema)
    return b"".join((encoded, batch.serialize(), _END_OF_STREAM))


@lru_cache(maxsize=1_024)
def _schema(names: tuple[str, ...], types: tuple[pa.DataType, ...]) -> tuple[pa.Schema, bytes]:
    """A schema, and the message of it that a stream begins with."""
    schema = pa.schema(list(zip(names, types, strict=True)))
    return schema, schema.serialize().to_pybytes()


def _facts(rows: PredictionRows) -> Columns:
    count = len(rows)
    columns: Columns = {"prediction_id": _texts_of_length(rows.ids, LENGTH)}
    if rows.units:
        columns["unit_id"] = pa.array(rows.units, pa.string())
    columns["event_time"] = _plain(_TIME, rows.event_times_us, count)
    if rows.failures:
        columns["failure"] = pa.array(rows.failures, pa.string())
        return columns
    columns["score"] = _plain(pa.float64(), rows.scores, count)
    columns["latency_us"] = _plain(pa.uint32(), rows.latencies_us, count)
    if rows.fallbacks:
        fallbacks = [""] * count
        for first, some, fallback in rows.fallbacks:
            fallbacks[first : first + some] = [fallback] * some
        columns["fallback"] = pa.array(fallbacks, pa.string())
    if rows.model_latencies_us:
        columns["model_latency_us"] = _plain(pa.uint32(), rows.model_latencies_us, count)
    if rows.cached:
        columns["cached"] = pa.array(rows.cached, pa.bool_())
    return columns


def _plain(kind: pa.DataType, values: Any, count: int) -> pa.Array:
    """An array without nulls, of values that lie in memory as Arrow has them."""
    return pa.Array.from_buffers(kind, count, [None, pa.py_buffer(values)])


def _texts_of_length(text: bytearray, length: int) -> pa.Array:
    count = len(text) // length
    ends = np.arange(0, len(text) + 1, length, dtype=np.int32)
    buffers = [None, pa.py_buffer(ends), pa.py_buffer(text)]
    return pa.Array.from_buffers(pa.string(), count, buffers)


def _inputs(rows: PredictionRows) -> Columns:
    plan = rows.variant.plan
    width = len(plan.fields)
    if rows.prepared:
        return _from_prepared(rows, plan)
    if rows.given:
        return _from_matrix(plan, np.frombuffer(rows.given, np.float64).reshape(-1, width))
    return (
        _from_matrix(plan, np.frombuffer(rows.seen, "<f4").reshape(-1, width)) if rows.seen else {}
    )


def _from_matrix(plan: InputPlan, matrix: npt.NDArray[Any]) -> Columns:
    by_column = np.ascontiguousarray(matrix.T)
    numbers, size = pa.py_buffer(by_column), by_column.strides[0]
    kind = pa.from_numpy_dtype(matrix.dtype)
    columns: Columns = {}
    for at, field in enumerate(plan.fields):
        if field.codes is None:
            column = _plain(kind, numbers.slice(at * size, size), len(matrix))
        else:
            column = _names_of(tuple(field.codes), by_column[at])
        columns[f"input.{field.name}"] = column
    return columns


def _names_of(names: tuple[str, ...], codes: npt.NDArray[Any]) -> pa.Array:
    """Categories of their codes; null for a code that there is not, and for NaN."""
    known = (codes >= 0) & (codes < len(names))
    places = np.where(known, codes, 0).astype(np.int32)
    return _categories(names).take(pa.array(places, mask=~known))


@lru_cache(maxsize=1_024)
def _categories(names: tuple[str, ...]) -> pa.Array:
    return pa.array(names, pa.string())


def _from_prepared(rows: PredictionRows, plan: InputPlan) -> Columns:
    text = {field.name: field.codes is not None for field in plan.fields}
    text |= {key: True for key in plan.entity_keys if key not in text}
    columns: Columns = {}
    for name, is_text in text.items():
        values = [
            value
            for prepared, count in rows.prepared
            for value in prepared.columns.get(name) or [None] * count
        ]
        columns[f"input.{name}"] = _texts(values) if is_text else pa.array(values, pa.float64())
        if any(prepared.times_us.get(name) for prepared, _ in rows.prepared):
            known = [
                when or None
                for prepared, count in rows.prepared
                for when in prepared.times_us.get(name) or [0] * count
            ]
            columns[f"known.{name}"] = pa.array(known, _TIME)
    return columns


def _texts(values: list[Any]) -> pa.Array:
    # An entity's key may be a number.
    return pa.array([None if value is None else str(value) for value in values], pa.string())


def _exposure_batch(rows: list[ExposureRow]) -> events_pb2.ExposureBatch:
    first = rows[0]
    batch = events_pb2.ExposureBatch(experiment=first.experiment, arms=first.arms)
    errors = bytearray()
    for row in rows:
        batch.unit_ids.append(row.unit)
        batch.prediction_ids.append(row.prediction_id)
        batch.assigned.append(row.assigned)
        batch.scores.extend(row.scores)
        batch.event_times_us.append(row.event_time_us)
        batch.latencies_us.extend([min(value, MOST_LATENCY_US) for value in row.latencies_us])
        errors.extend(row.errors)
    batch.errors = bytes(errors)
    return batch
