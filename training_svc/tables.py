"""Tables as columns of arrays, over Arrow."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from service_kit.errors import FailedPrecondition


class ArrowTable:
    """Rows by column, over an Arrow table."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table

    @property
    def row_count(self) -> int:
        """Number of rows."""
        return int(self._table.num_rows)

    @property
    def columns(self) -> Sequence[str]:
        """Names of the columns."""
        return list(self._table.column_names)

    def column(self, name: str) -> NDArray[Any]:
        """Values: numbers as float64 with NaN, times as datetime64[us] in UTC, else objects.

        Raises:
            FailedPrecondition: There is no such column.
        """
        if name not in self._table.column_names:
            raise FailedPrecondition("COLUMN_MISSING", f"the data has no column {name}")
        values = self._table.column(name)
        if pa.types.is_timestamp(values.type):
            instants = values.cast(pa.timestamp("us", values.type.tz))
            return np.asarray(instants.to_numpy()).astype("datetime64[us]")
        if pa.types.is_boolean(values.type):
            values = values.cast(pa.int8())
        if pa.types.is_integer(values.type) or pa.types.is_floating(values.type):
            return np.asarray(values.cast(pa.float64()).to_numpy())
        return np.asarray(values.to_numpy())


def from_chunks(chunks: Iterable[bytes]) -> ArrowTable:
    """Joins Arrow IPC streams into one table."""
    tables = [pa.ipc.open_stream(chunk).read_all() for chunk in chunks]
    if not tables:
        raise FailedPrecondition("NO_ROWS", "the data has no rows")
    return ArrowTable(pa.concat_tables(tables))


def to_bytes(columns: Mapping[str, NDArray[Any]]) -> bytes:
    """Writes columns as an Arrow IPC stream."""
    table = pa.table({name: pa.array(values) for name, values in columns.items()})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    content: bytes = sink.getvalue().to_pybytes()
    return content
