"""The folder of a batch prediction: its shards and what became of them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

ROW = "row"


class ShardFolder:
    """Files `in-…`, `out-…` and `err-…`, one of each a shard."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def fill(
        self, batches: Iterable[pa.RecordBatch], rows_a_shard: int, stopped: Callable[[], bool]
    ) -> tuple[int, int] | None:
        """Cut rows into shards; gives rows and shards, or nothing when asked to stop.

        Every row gets its place in the input, from 0.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        rows = shards = 0
        for table in _pieces(batches, rows_a_shard):
            if stopped():
                return None
            places = pa.array(range(rows, rows + table.num_rows), pa.int64())
            write_at_once(self.input(shards), table.append_column(ROW, places))
            rows, shards = rows + table.num_rows, shards + 1
        scratch = self.folder / "filled.tmp"
        scratch.write_text(json.dumps([rows, shards]))
        scratch.replace(self.folder / "filled.json")
        return rows, shards

    def filled(self) -> tuple[int, int] | None:
        """Rows and shards once they are all there."""
        try:
            rows, shards = json.loads((self.folder / "filled.json").read_text())
        except FileNotFoundError:
            return None
        return int(rows), int(shards)

    def input(self, shard: int) -> Path:
        """Rows to score."""
        return self.folder / f"in-{shard:06}.parquet"

    def output(self, shard: int) -> Path:
        """Their scores; a shard is done when it is there."""
        return self.folder / f"out-{shard:06}.parquet"

    def errors(self, shard: int) -> Path:
        """Rows that could not be scored; written before the output."""
        return self.folder / f"err-{shard:06}.parquet"

    def done(self, shards: int) -> dict[int, tuple[int, int]]:
        """Rows and refused rows of the shards that are done."""
        return {
            shard: self.counts(shard) for shard in range(shards) if self.output(shard).is_file()
        }

    def counts(self, shard: int) -> tuple[int, int]:
        """Rows and refused rows of a shard that is done."""
        return _rows(self.output(shard)), _rows(self.errors(shard))

    def join(self, paths: Iterable[Path], target: Path) -> int:
        """Write the rows of files into one, a file in memory at a time; gives their number."""
        rows = 0
        writer: pq.ParquetWriter | None = None
        try:
            for path in paths:
                table = pq.read_table(path)
                writer = writer or pq.ParquetWriter(target, table.schema, compression="zstd")
                writer.write_table(table)
                rows += table.num_rows
        finally:
            if writer is not None:
                writer.close()
        return rows

    def remove(self) -> None:
        """Remove all of it."""
        shutil.rmtree(self.folder, ignore_errors=True)


def write_at_once(path: Path, table: pa.Table) -> None:
    """Have all of a file or none of it, also when two processes write the same one."""
    scratch = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    pq.write_table(table, scratch, compression="zstd")
    scratch.replace(path)


def _pieces(batches: Iterable[pa.RecordBatch], rows: int) -> Iterator[pa.Table]:
    waiting: list[pa.RecordBatch] = []
    count = 0
    for batch in batches:
        at = 0
        while at < batch.num_rows:
            part = batch.slice(at, rows - count)
            waiting.append(part)
            count, at = count + part.num_rows, at + part.num_rows
            if count == rows:
                yield pa.Table.from_batches(waiting)
                waiting, count = [], 0
    if waiting:
        yield pa.Table.from_batches(waiting)


def _rows(path: Path) -> int:
    return int(pq.read_metadata(path).num_rows)
