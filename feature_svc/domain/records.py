"""What is kept about tables: parts of a history, snapshots, training sets, materializations."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from feature_svc.domain.definitions import Field


@dataclass(frozen=True, slots=True)
class Part:
    """Rows that were appended together to the history of a source.

    Attributes:
        content: Hash of the rows in the order in which they came.
        file: Name of the file that holds them, perhaps among the rows of its neighbours.
    """

    content: str
    file: str
    row_count: int
    first_time: datetime
    last_time: datetime


@dataclass(frozen=True, slots=True)
class HistoryFile:
    """A file of a history, with the times that its rows lie between (both inclusive)."""

    name: str
    row_count: int
    first_time: datetime
    last_time: datetime


@dataclass(frozen=True, slots=True)
class SourceSpan:
    """How much history a source has."""

    row_count: int = 0
    first_time: datetime | None = None
    last_time: datetime | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Rows of a source that never change; `sha256` is the hash of their content."""

    sha256: str
    data_source: str
    start_time: datetime | None
    end_time: datetime
    row_count: int
    create_time: datetime


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """A snapshot joined with a feature service; never changes."""

    sha256: str
    snapshot: str
    feature_service: str
    definitions_hash: str
    fields: tuple[Field, ...]
    row_count: int
    create_time: datetime


@dataclass(frozen=True, slots=True)
class Materialization:
    """A load of the online store from an interval of history."""

    id: str
    feature_views: tuple[str, ...]
    start_time: datetime
    end_time: datetime
    row_count: int
    complete_time: datetime
