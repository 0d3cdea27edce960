"""Rows of a table as they are written to the online store."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from feature_svc.domain import Definitions, FeatureView
from feature_svc.domain.online import layout


@dataclass(frozen=True, slots=True)
class OnlineRow:
    """What is known of one entity: fields of its hash, among them the time.

    Attributes:
        key: Key of the hash.
        time_us: When it became known, microseconds since the epoch.
        fields: Field, value, field, value and so on, without the time.
    """

    key: bytes
    time_us: int
    fields: tuple[bytes, ...]


def encode_rows(
    definitions: Definitions, view: FeatureView, table: Any, project: str
) -> list[OnlineRow]:
    """Encodes the rows of a table with the entity keys, the timestamp and all features."""
    names = sorted(definitions.join_keys_of_view(view))
    prefix, suffix = layout.key_prefix(names), project.encode()
    keys = zip(*(table.column(name).to_pylist() for name in names), strict=True)
    timestamp = definitions.data_sources[view.data_source].timestamp_field
    times = table.column(timestamp).cast(pa.int64()).to_pylist()
    columns = [_encoded(view, each.name, table) for each in view.features]
    return [
        OnlineRow(
            prefix + b"".join(map(layout.key_value, key)) + suffix,
            time,
            tuple(piece for cell in cells for piece in cell),
        )
        for key, time, cells in zip(keys, times, _transposed(columns, len(times)), strict=True)
    ]


def _encoded(view: FeatureView, name: str, table: Any) -> list[tuple[bytes, bytes]]:
    kind = next(each.type for each in view.features if each.name == name)
    encode, field = layout.ENCODERS[kind], layout.feature_field(view.id, name)
    return [
        (field, b"" if value is None else encode(value)) for value in table.column(name).to_pylist()
    ]


def _transposed(
    columns: Sequence[Sequence[tuple[bytes, bytes]]], rows: int
) -> Iterable[tuple[tuple[bytes, bytes], ...]]:
    return zip(*columns, strict=True) if columns else iter([()] * rows)
