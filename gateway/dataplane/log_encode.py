"""Batches of the log as events: rows of the same version together, in columns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain, groupby
from math import nan
from typing import TYPE_CHECKING, Any, TypeVar

from modelyard.data.v1 import data_pb2
from modelyard.events.v1 import events_pb2

from gateway.dataplane.inputs import Columns, decode_rows
from service_kit.streams import Event

if TYPE_CHECKING:
    from gateway.dataplane.log import ExposureRow, PredictionChunk

_MOST_LATENCY = 2**32 - 1
T = TypeVar("T", bound=Any)


def encode_predictions(stream: str, chunks: Sequence[PredictionChunk]) -> tuple[list[Event], int]:
    """Events of `PredictionBatch`, one a version and role, and the number of rows."""
    events = [
        Event.of(stream, group[0].endpoint, _prediction_batch(group)) for group in _grouped(chunks)
    ]
    return events, sum(len(chunk.ids) for chunk in chunks)


def encode_exposures(stream: str, rows: Sequence[ExposureRow]) -> tuple[list[Event], int]:
    """Events of `ExposureBatch`, one an experiment, and the number of rows."""
    events = [
        Event.of(stream, group[0].endpoint, _exposure_batch(group)) for group in _grouped(rows)
    ]
    return events, len(rows)


def _grouped(items: Iterable[T]) -> list[list[T]]:
    groups: dict[Any, list[T]] = {}
    for item in items:
        groups.setdefault(item.key, []).append(item)
    return list(groups.values())


def _prediction_batch(chunks: list[PredictionChunk]) -> events_pb2.PredictionBatch:
    first = chunks[0]
    kinds = events_pb2.PredictionBatch
    batch = events_pb2.PredictionBatch(
        endpoint=first.endpoint,
        variant=first.variant,
        model_version=first.model_version,
        role=kinds.ROLE_SHADOW if first.shadow else kinds.ROLE_PRIMARY,
        table_generation=first.generation,
    )
    for chunk in chunks:
        rows = len(chunk.ids)
        batch.prediction_ids.extend(chunk.ids)
        batch.unit_ids.extend(chunk.units)
        batch.event_times_us.extend(chunk.event_times_us)
        batch.scores.extend(chunk.scores)
        batch.latencies_us.extend([min(chunk.latency_us, _MOST_LATENCY)] * rows)
    if any(chunk.fallback for chunk in chunks):
        batch.fallbacks.extend(
            chain.from_iterable([chunk.fallback] * len(chunk.ids) for chunk in chunks)
        )
    plan = first.plan
    fields = {field.name: field.codes is not None for field in plan.fields}
    names = {**fields, **{key: True for key in plan.entity_keys if key not in fields}}
    columns = _columns(chunks, names)
    for name, text in names.items():
        _add_column(batch, name, columns[name], text)
        if any(chunk.times_us.get(name) for chunk in chunks):
            batch.inputs[-1].event_times_us.extend(
                chain.from_iterable(
                    chunk.times_us.get(name) or [0] * len(chunk.ids) for chunk in chunks
                )
            )
    return batch


def _columns(chunks: list[PredictionChunk], names: Iterable[str]) -> Columns:
    """The columns of chunks of one plan, those that were kept in the same way decoded in one go."""
    merged: Columns = {name: [] for name in names}
    for kind, alike in groupby(chunks, _kept):
        some = list(alike)
        rows = sum(len(chunk.ids) for chunk in some)
        known: Columns = {}
        if kind == "instances":
            given = list(chain.from_iterable(chunk.instances for chunk in some))
            known = {name: [instance.get(name) for instance in given] for name in merged}
        elif kind == "matrix":
            known = decode_rows(some[0].plan, b"".join(chunk.matrix for chunk in some), rows)
        elif kind == "columns":
            known = {
                name: [
                    value
                    for chunk in some
                    for value in chunk.columns.get(name) or [None] * len(chunk.ids)
                ]
                for name in merged
            }
        for name, values in merged.items():
            values.extend(known.get(name) or [None] * rows)
    return merged


def _kept(chunk: PredictionChunk) -> str:
    if chunk.columns:
        return "columns"
    if chunk.instances:
        return "instances"
    return "matrix" if chunk.matrix else ""


def _add_column(
    batch: events_pb2.PredictionBatch, name: str, values: list[Any], text: bool
) -> None:
    column: data_pb2.Column = batch.inputs.add(name=name)
    if text:
        column.strings.values.extend(["" if value is None else str(value) for value in values])
    else:
        if None in values:
            values = [nan if value is None else value for value in values]
        column.doubles.values.extend(values)


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
        batch.latencies_us.extend([min(value, _MOST_LATENCY) for value in row.latencies_us])
        errors.extend(row.errors)
    batch.errors = bytes(errors)
    return batch
