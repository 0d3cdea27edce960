"""Parquet files below the suite's home: histories of sources, and tables that never change."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from feature_svc.domain import Field, Part, content_hash, schema_of
from service_kit.errors import Internal

BATCH_ROWS = 65_536
UNUSED_FOR = timedelta(hours=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class ParquetHistory:
    """Histories as files of rows that only ever get more; a file appears whole or not at all.

    Names of files are hashes of their rows, never a word of a client's.
    """

    def __init__(self, root: Path) -> None:
        self._histories = root / "history"
        self._frozen = root / "frozen"
        for folder in (self._histories, self._frozen):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def write(self, source: str, table: Any, timestamp_field: str) -> Part:
        """Writes rows in their order, at least one; the record decides whether they count."""
        content = content_hash(table, about=source)
        self._store(self._part(source, content), table)
        span = pc.min_max(table.column(timestamp_field).cast(pa.int64())).as_py()
        return Part(content, content, table.num_rows, _moment(span["min"]), _moment(span["max"]))

    def read(self, source: str, files: Sequence[str], fields: Sequence[Field]) -> Any:
        """Reads columns of files, one after the other; null where a file has no such column.

        Raises:
            Internal: `HISTORY_DAMAGED` when a file is not there or not whole.
        """
        schema = schema_of(fields)
        tables = [_columns(self._part(source, file), schema) for file in files]
        return pa.concat_tables([schema.empty_table(), *tables])

    def merge(self, source: str, files: Sequence[str], fields: Sequence[Field]) -> str:
        """Writes the rows of some files into one; gives its name."""
        table = self.read(source, files, fields)
        name = content_hash(table, about=source)
        self._store(self._part(source, name), table)
        for file in files:
            # Someone may be about to read it: it must not be swept at once.
            self._part(source, file).touch()
        return name

    def freeze(self, sha256: str, table: Any) -> None:
        """Stores a table under its hash."""
        self._store(self._frozen_path(sha256), table)

    def frozen(self, sha256: str) -> Any:
        """A frozen table, whole."""
        return _columns(self._frozen_path(sha256), None)

    def frozen_batches(self, sha256: str) -> Iterator[Any]:
        """A frozen table in parts of at most 65,536 rows; at least one, perhaps empty."""
        with _whole(), pq.ParquetFile(self._frozen_path(sha256)) as file:
            if file.metadata.num_rows == 0:
                yield file.schema_arrow.empty_table()
            for batch in file.iter_batches(batch_size=BATCH_ROWS):
                yield pa.Table.from_batches([batch])

    def sweep(self, source: str, used: Collection[str]) -> None:
        """Deletes files of a source that the record does not name and that lie there for long."""
        before = time.time() - UNUSED_FOR.total_seconds()
        for path in (self._histories / source).glob("*.parquet"):
            if path.stem not in used and path.stat().st_mtime < before:
                path.unlink(missing_ok=True)

    def _part(self, source: str, name: str) -> Path:
        return self._histories / source / f"{name}.parquet"

    def _frozen_path(self, sha256: str) -> Path:
        return self._frozen / f"{sha256}.parquet"

    def _store(self, path: Path, table: Any) -> None:
        if path.is_file():
            # A file about to be swept is in use again.
            path.touch()
            return
        path.parent.mkdir(exist_ok=True, mode=0o700)
        handle, scratch = tempfile.mkstemp(dir=path.parent, prefix=".incoming-")
        try:
            with os.fdopen(handle, "wb") as file:
                pq.write_table(
                    table,
                    file,
                    compression="zstd",
                    compression_level=1,
                    row_group_size=BATCH_ROWS,
                    write_page_checksum=True,
                )
                file.flush()
                os.fsync(file.fileno())
            Path(scratch).replace(path)
        finally:
            Path(scratch).unlink(missing_ok=True)


def _columns(path: Path, schema: Any) -> Any:
    with _whole(), pq.ParquetFile(path, page_checksum_verification=True) as file:
        if schema is None:
            return file.read()
        there = set(file.schema_arrow.names)
        table = file.read(columns=[name for name in schema.names if name in there])
        rows = file.metadata.num_rows
        columns = [
            table.column(each.name) if each.name in there else pa.nulls(rows, each.type)
            for each in schema
        ]
        return pa.table(columns, schema=schema)


@contextmanager
def _whole() -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise Internal("HISTORY_DAMAGED", "a stored table cannot be read") from error


def _moment(micros: int) -> datetime:
    return _EPOCH + timedelta(microseconds=micros)
