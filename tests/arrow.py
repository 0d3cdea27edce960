"""Tables as Arrow IPC streams, for tests that make or read what travels on the event streams."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

TIME = pa.timestamp("us", tz="UTC")


def encoded(columns: Mapping[str, pa.Array | Sequence[Any]]) -> bytes:
    """Columns as a stream."""
    table = pa.table(dict(columns))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue().to_pybytes())


def decoded(stream: bytes) -> dict[str, list[Any]]:
    """The columns of a stream; times in microseconds since the epoch."""
    with pa.ipc.open_stream(stream) as reader:
        table = reader.read_all()
    return {
        field.name: (
            table[field.name].cast(pa.int64()) if field.type == TIME else table[field.name]
        ).to_pylist()
        for field in table.schema
    }
