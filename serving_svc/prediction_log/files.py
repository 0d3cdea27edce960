"""Parquet files of the prediction log, one folder an endpoint and day, each file written at once.

A file is complete when it has its name, and part of the log when the catalogue lists it: the
folder alone says nothing. So whatever ends between the two leaves a file that nobody reads.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from modelyard.events.v1 import events_pb2

from service_kit.errors import Unavailable
from service_kit.ids import uuid7_str
from service_kit.names import parse_name
from serving_svc.domain.predictions import LogFile, LoggedRow
from serving_svc.prediction_log import columns

#: Rows that a lookup reads; the statistics of each such group tell whether it may hold an id.
GROUP_ROWS = 8_192
_SUFFIX, _SCRATCH = ".parquet", ".tmp"


class PredictionFiles:
    """Writes, merges, searches and removes files below a folder.

    Args:
        folder: Laid out as Hive partitions, `endpoint=…/day=…`, so that other tools read it too.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, batches: Sequence[events_pb2.PredictionBatch]) -> list[LogFile]:
        """Write rows, one file an endpoint, day and shape.

        Raises ValueError when a batch is not sound, Unavailable (`LOG_STORAGE`) when the disk
        takes no more.
        """
        alike: dict[tuple[str, pa.Schema], list[pa.Table]] = {}
        for batch in batches:
            endpoint = parse_name("endpoints/{endpoint}", batch.endpoint)["endpoint"]
            rows = columns.rows_of(batch)
            alike.setdefault((endpoint, rows.schema), []).append(rows)
        groups: dict[tuple[str, date, str], list[pa.Table]] = {}
        for (endpoint, _), several in alike.items():
            table = columns.table_of(pa.concat_tables(several).combine_chunks())
            for day, part in columns.by_day(table).items():
                key = (endpoint, day, columns.shape_of(part))
                groups.setdefault(key, []).append(part)
        return [self._write(key, pa.concat_tables(tables)) for key, tables in groups.items()]

    def merge(self, files: Sequence[LogFile]) -> LogFile:
        """Write the rows of files of one endpoint, day and shape into a new one.

        Raises FileNotFoundError when one is gone, Unavailable (`LOG_STORAGE`).
        """
        first = files[0]
        tables = [pq.read_table(self._path(each), partitioning=None) for each in files]
        return self._write((first.endpoint_id, first.day, first.shape), pa.concat_tables(tables))

    def find(self, file: LogFile, prediction_id: str) -> list[LoggedRow]:
        """The rows of an id; raises FileNotFoundError when the file is gone."""
        with pq.ParquetFile(self._path(file)) as reader:
            found: list[LoggedRow] = []
            for group in _groups_with(reader, prediction_id):
                ids = reader.read_row_group(group, columns=[columns.ID])[columns.ID].to_pylist()
                places = [place for place, each in enumerate(ids) if each == prediction_id]
                if places:
                    rows = reader.read_row_group(group).slice(places[0], len(places))
                    found += [columns.row_of(row, file.endpoint_id) for row in rows.to_pylist()]
            return found

    def remove(self, files: Iterable[LogFile]) -> None:
        """Remove files; those that are gone are no trouble."""
        for each in files:
            path = self._path(each)
            path.unlink(missing_ok=True)
            _remove_if_empty(path.parent)

    def older_than(self, age: timedelta) -> dict[str, Path]:
        """Files by id, scratch files among them, that were last written longer ago."""
        before = time.time() - age.total_seconds()
        found = {}
        for path in self._folder.glob("endpoint=*/day=*/*"):
            try:
                if path.stat().st_mtime < before:
                    found[path.name.removesuffix(_SCRATCH).removesuffix(_SUFFIX)] = path
            except FileNotFoundError:
                continue
        return found

    def _write(self, key: tuple[str, date, str], table: pa.Table) -> LogFile:
        endpoint_id, day, shape = key
        ordered = columns.in_order(table)
        ids = ordered[columns.ID]
        file = LogFile(
            uuid7_str(), endpoint_id, day, shape,
            ids[0].as_py(), ids[-1].as_py(), ordered.num_rows, 0,
        )  # fmt: skip
        path = self._path(file)
        with _storage():
            size = _write_at_once(path, ordered)
        return LogFile(
            file.file_id, endpoint_id, day, shape, file.min_id, file.max_id, file.rows, size
        )

    def _path(self, file: LogFile) -> Path:
        return path_of(self._folder, file)


def path_of(folder: Path, file: LogFile) -> Path:
    """Where a file lies below the log's folder."""
    below = folder / f"endpoint={file.endpoint_id}" / f"day={file.day.isoformat()}"
    return below / f"{file.file_id}{_SUFFIX}"


def _groups_with(reader: pq.ParquetFile, prediction_id: str) -> Iterator[int]:
    place = reader.schema_arrow.get_field_index(columns.ID)
    for group in range(reader.metadata.num_row_groups):
        known = reader.metadata.row_group(group).column(place).statistics
        if known is None or known.min <= prediction_id <= known.max:
            yield group


def _write_at_once(path: Path, table: pa.Table) -> int:
    """Have all of a file, on disk, or none of it; gives its size in bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(path.name + _SCRATCH)
    # Numbers hardly repeat: split into their bytes they are smaller than with a dictionary, and
    # take a third of the time.
    numbers = [field.name for field in table.schema if pa.types.is_floating(field.type)]
    texts = [name for name in table.schema.names if name not in (columns.ID, *numbers)]
    pq.write_table(
        table,
        scratch,
        compression="zstd",
        row_group_size=GROUP_ROWS,
        use_dictionary=texts,
        use_byte_stream_split=numbers,
    )
    _sync(scratch)
    size = scratch.stat().st_size
    scratch.replace(path)
    _sync(path.parent)
    return size


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_if_empty(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError:
        return


@contextmanager
def _storage() -> Iterator[None]:
    # No event is to blame for a full disk; it waits in the stream.
    try:
        yield
    except OSError as error:
        raise Unavailable("LOG_STORAGE", "the prediction log can't be written") from error
