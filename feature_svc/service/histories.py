"""Histories of data sources: appending rows and reading them back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from itertools import groupby
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from feature_svc.domain import (
    DataSource,
    Definitions,
    Field,
    HistoryFile,
    Part,
    TableRules,
    conform,
)
from feature_svc.service.ports import HistoryStore, Records

SMALL_ROWS = 100_000
MOST_SMALL_FILES = 64

Transaction: TypeAlias = Callable[[], AbstractContextManager[Records]]


class Histories:
    """The histories of all sources."""

    def __init__(self, store: HistoryStore) -> None:
        self._store = store

    def checked(self, definitions: Definitions, source: DataSource, table: Any) -> Any:
        """A table as the source has it; all columns must be there."""
        return conform(
            table,
            TableRules(
                fields=source.fields,
                required=frozenset(each.name for each in source.fields),
                keys=definitions.keys_of_source(source.id),
                timestamp_field=source.timestamp_field,
            ),
        )

    def write(self, source: DataSource, table: Any) -> Part | None:
        """Writes rows, which count once they are recorded; nothing for no rows."""
        if not table.num_rows:
            return None
        return self._store.write(source.id, table, source.timestamp_field)

    def record(self, records: Records, source: DataSource, part: Part | None) -> bool:
        """Makes written rows part of the history; the very same rows count once."""
        if part is None:
            return False
        records.lock_source(source.id)
        return records.add_part(source.id, part)

    def rows(
        self,
        records: Records,
        source: DataSource,
        fields: Sequence[Field],
        start: datetime | None,
        end: datetime,
    ) -> Any:
        """Rows with start <= timestamp < end, in the order in which they were written.

        `fields` must contain the timestamp.
        """
        names = [
            file.name
            for file in records.files(source.id)
            if file.first_time < end and (start is None or file.last_time >= start)
        ]
        table = self._store.read(source.id, names, fields)
        times = table.column(source.timestamp_field)
        wanted = pc.less(times, instant(end))
        if start is not None:
            wanted = pc.and_(wanted, pc.greater_equal(times, instant(start)))
        return table.filter(wanted)

    def compact(self, transaction: Transaction, source: DataSource) -> bool:
        """Puts many small files together, so that reading stays fast; True when it did."""
        with transaction() as records:
            records.lock_source(source.id)
            small = _longest_run(records.files(source.id))
            if len(small) <= MOST_SMALL_FILES:
                return False
            merged = self._store.merge(source.id, small, source.fields)
            records.replace_files(source.id, small, merged)
        return True


def instant(moment: datetime) -> Any:
    """A moment as an Arrow scalar of the type of all timestamps here."""
    return pa.scalar(moment, pa.timestamp("us", tz="UTC"))


def _longest_run(files: Sequence[HistoryFile]) -> list[str]:
    """Neighbours that are all small: only these can be joined without changing the order."""
    runs = [
        [file.name for file in run]
        for small, run in groupby(files, key=lambda file: file.row_count < SMALL_ROWS)
        if small
    ]
    return max(runs, key=len, default=[])
