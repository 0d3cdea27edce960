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
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from modelyard.events.v1 import events_pb2

from service_kit.errors import Unavailable
from service_kit.ids import uuid7_str
from service_kit.names import parse_name
from serving_svc.domain.predictions import LogFile, LoggedRow
from serving_svc.prediction_log import columns
from serving_svc.prediction_log.id_column import TYPE, bytes_of, text_of

#: Rows that a lookup reads; the statistics of each such group tell whether it may hold an id.
GROUP_ROWS = 8_192
#: What has just come is packed quickly; most of it is soon written again, and then densely.
_QUICK, _DENSE = "lz4", "zstd"
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
            table = columns.table_of(pa.concat_tables(several))
            for day, part in columns.by_day(table).items():
                key = (endpoint, day, columns.shape_of(part))
                groups.setdefault(key, []).append(part)
        return [self._write(key, tables, _QUICK) for key, tables in groups.items()]

    def merge(self, files: Sequence[LogFile]) -> LogFile:
        """Write the rows of files of one endpoint, day and shape into a new one.

        Raises FileNotFoundError when one is gone, Unavailable (`LOG_STORAGE`).
        """
        first = files[0]
        tables = [_read(self._path(each)) for each in files]
        return self._write((first.endpoint_id, first.day, first.shape), tables, _DENSE)

    def find(self, file: LogFile, prediction_id: str) -> list[LoggedRow]:
        """The rows of an id; raises FileNotFoundError when the file is gone."""
        wanted = bytes_of(prediction_id)
        with pq.ParquetFile(self._path(file)) as reader:
            found: list[LoggedRow] = []
            for group in groups_within(reader, wanted, wanted):
                ids = columns.as_kept(reader.read_row_group(group, columns=[columns.ID]))
                same = pc.equal(ids[columns.ID], pa.scalar(wanted, TYPE))
                places = pc.indices_nonzero(same).to_pylist()
                if places:
                    rows = reader.read_row_group(group).slice(places[0], len(places))
                    rows = columns.as_kept(rows).to_pylist()
                    found += [columns.row_of(row, file.endpoint_id) for row in rows]
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

    def _write(
        self, key: tuple[str, date, str], tables: Sequence[pa.Table], compression: str
    ) -> LogFile:
        endpoint_id, day, shape = key
        file_id = uuid7_str()
        path = _path_of(self._folder, endpoint_id, day, file_id)
        with _storage():
            least, greatest, rows = _write_at_once(path, pa.concat_tables(tables), compression)
            size = path.stat().st_size
        ends = (text_of(least), text_of(greatest))
        return LogFile(file_id, endpoint_id, day, shape, *ends, rows, size)

    def _path(self, file: LogFile) -> Path:
        return path_of(self._folder, file)


def path_of(folder: Path, file: LogFile) -> Path:
    """Where a file lies below the log's folder."""
    return _path_of(folder, file.endpoint_id, file.day, file.file_id)


def groups_within(reader: pq.ParquetFile, least: bytes, greatest: bytes) -> list[int]:
    """The row groups of a file that may hold ids within bounds, both included."""
    place = reader.schema_arrow.get_field_index(columns.ID)
    found = []
    for group in range(reader.metadata.num_row_groups):
        known = reader.metadata.row_group(group).column(place).statistics
        if known is None or not known.has_min_max or (known.min <= greatest and known.max >= least):
            found.append(group)
    return found


def _path_of(folder: Path, endpoint_id: str, day: date, file_id: str) -> Path:
    below = folder / f"endpoint={endpoint_id}" / f"day={day.isoformat()}"
    return below / f"{file_id}{_SUFFIX}"


def _read(path: Path) -> pa.Table:
    with pq.ParquetFile(path) as reader:
        return columns.as_kept(reader.read())


def _write_at_once(path: Path, table: pa.Table, compression: str) -> tuple[bytes, bytes, int]:
    """Have all of a file, on disk, or none of it; gives its ends and its number of rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(path.name + _SCRATCH)
    table = table.unify_dictionaries().combine_chunks()
    rows, ends = 0, []
    options = _options(table.schema, compression)
    with pq.ParquetWriter(scratch, columns.stored(table.schema), **options) as file:
        # A part after the other: what is sorted and packed stays in the processor's caches.
        for part in columns.in_order(table, GROUP_ROWS):
            file.write_table(columns.as_stored(part))
            ends += [part[columns.ID][0].as_py(), part[columns.ID][-1].as_py()]
            rows += part.num_rows
    _sync(scratch)
    scratch.replace(path)
    _sync(path.parent)
    return ends[0], ends[-1], rows


def _options(schema: pa.Schema, compression: str) -> dict[str, Any]:
    """How columns are written."""
    # Numbers hardly repeat: split into their bytes they are smaller than with a dictionary, and
    # take a third of the time.
    numbers = [field.name for field in schema if pa.types.is_floating(field.type)]
    return {
        "compression": compression,
        "use_byte_stream_split": numbers,
        "use_dictionary": [name for name in schema.names if name not in (columns.ID, *numbers)],
        # Least and greatest of every input would take as long as packing them.
        "write_statistics": [name for name in schema.names if not columns.is_input(name)],
    }


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
