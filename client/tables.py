"""Rows as they travel to the gateway."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

Json = dict[str, Any]

MOST_BYTES = 24 * 1024 * 1024
"""Most bytes of rows in one call."""


def as_arrow(table: Any) -> Any:
    """An Arrow table of an Arrow table or a pandas frame."""
    import pyarrow as pa

    if isinstance(table, pa.Table):
        return table
    return pa.Table.from_pandas(table, preserve_index=False)


def parts_of(table: Any) -> Iterator[Any]:
    """Cuts an Arrow table into parts of about `MOST_BYTES` at most, at least one."""
    count = max(1, -(-table.nbytes // MOST_BYTES))
    rows = max(1, -(-table.num_rows // count))
    for start in range(0, max(table.num_rows, 1), rows):
        yield table.slice(start, rows)


def arrow_body(table: Any) -> Json:
    """Encodes an Arrow table or a pandas frame as the contract's `Table`."""
    return {"arrow_ipc": base64.b64encode(arrow_bytes(as_arrow(table))).decode()}


def arrow_bytes(table: Any) -> bytes:
    """An Arrow table as an IPC stream."""
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    content: bytes = sink.getvalue().to_pybytes()
    return content
