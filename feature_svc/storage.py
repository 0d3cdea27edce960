"""The tables of the feature service and the repository over them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import BigInteger, Integer, String, UniqueConstraint, func, select, update
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from feature_svc.domain import (
    Definitions,
    HistoryFile,
    Materialization,
    Part,
    Snapshot,
    SourceSpan,
    TrainingSet,
    documents,
)
from service_kit.database import BigKey, JsonColumn, UtcDateTime, make_metadata
from service_kit.idempotency import idempotency_table

T = TypeVar("T")


class Base(DeclarativeBase):
    """Declarative base of the feature service."""

    metadata = make_metadata()


class CatalogRow(Base):
    """One row: how often definitions were changed, so that others see it."""

    __tablename__ = "catalog"

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    generation: Mapped[int] = mapped_column(BigInteger)


class EntityRow(Base):
    """An entity."""

    __tablename__ = "entities"

    id: Mapped[str] = mapped_column(String(63), primary_key=True)
    document: Mapped[dict[str, Any]] = mapped_column(JsonColumn)


class DataSourceRow(Base):
    """A data source."""

    __tablename__ = "data_sources"

    id: Mapped[str] = mapped_column(String(63), primary_key=True)
    document: Mapped[dict[str, Any]] = mapped_column(JsonColumn)


class FeatureViewRow(Base):
    """A feature view."""

    __tablename__ = "feature_views"

    id: Mapped[str] = mapped_column(String(63), primary_key=True)
    document: Mapped[dict[str, Any]] = mapped_column(JsonColumn)


class FeatureServiceRow(Base):
    """A feature service."""

    __tablename__ = "feature_services"

    id: Mapped[str] = mapped_column(String(63), primary_key=True)
    document: Mapped[dict[str, Any]] = mapped_column(JsonColumn)


class PartRow(Base):
    """Rows that were appended together; `id` is the order in which that happened."""

    __tablename__ = "history_parts"
    __table_args__ = (UniqueConstraint("data_source", "content"),)

    id: Mapped[int] = mapped_column(BigKey, primary_key=True, autoincrement=True)
    data_source: Mapped[str] = mapped_column(String(63))
    content: Mapped[str] = mapped_column(String(64))
    file: Mapped[str] = mapped_column(String(64))
    row_count: Mapped[int] = mapped_column(BigInteger)
    first_time: Mapped[datetime] = mapped_column(UtcDateTime)
    last_time: Mapped[datetime] = mapped_column(UtcDateTime)


class SnapshotRow(Base):
    """A snapshot; `position` is the order in which they were made."""

    __tablename__ = "snapshots"

    position: Mapped[int] = mapped_column(BigKey, primary_key=True, autoincrement=True)
    sha256: Mapped[str] = mapped_column(String(64), unique=True)
    data_source: Mapped[str] = mapped_column(String(63))
    start_time: Mapped[datetime | None] = mapped_column(UtcDateTime)
    end_time: Mapped[datetime] = mapped_column(UtcDateTime)
    row_count: Mapped[int] = mapped_column(BigInteger)
    create_time: Mapped[datetime] = mapped_column(UtcDateTime)


class TrainingSetRow(Base):
    """A training set with its lineage."""

    __tablename__ = "training_sets"

    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    snapshot: Mapped[str] = mapped_column(String(64), index=True)
    feature_service: Mapped[str] = mapped_column(String(63))
    definitions_hash: Mapped[str] = mapped_column(String(64))
    fields: Mapped[list[dict[str, Any]]] = mapped_column(JsonColumn)
    row_count: Mapped[int] = mapped_column(BigInteger)
    create_time: Mapped[datetime] = mapped_column(UtcDateTime)


class MaterializationRow(Base):
    """A materialization; ids are ordered by time."""

    __tablename__ = "materializations"

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    feature_views: Mapped[list[str]] = mapped_column(JsonColumn)
    start_time: Mapped[datetime] = mapped_column(UtcDateTime)
    end_time: Mapped[datetime] = mapped_column(UtcDateTime)
    row_count: Mapped[int] = mapped_column(BigInteger)
    complete_time: Mapped[datetime] = mapped_column(UtcDateTime)


idempotency = idempotency_table(Base)


class SqlRecords:
    """The records of the feature service within one transaction."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def generation(self) -> int:
        """How often definitions were changed."""
        return self._session.scalar(select(CatalogRow.generation)) or 0

    def definitions(self) -> Definitions:
        """All definitions in force."""
        return Definitions(
            entities=self._all(EntityRow, documents.entity),
            data_sources=self._all(DataSourceRow, documents.data_source),
            feature_views=self._all(FeatureViewRow, documents.feature_view),
            feature_services=self._all(FeatureServiceRow, documents.feature_service),
        )

    def definitions_for_update(self) -> Definitions:
        """All definitions in force, which nobody else changes until this transaction ends."""
        self._session.execute(select(CatalogRow).with_for_update())
        return self.definitions()

    def save_definitions(self, before: Definitions, after: Definitions) -> None:
        """Stores what differs."""
        self._save(EntityRow, before.entities, after.entities)
        self._save(DataSourceRow, before.data_sources, after.data_sources)
        self._save(FeatureViewRow, before.feature_views, after.feature_views)
        self._save(FeatureServiceRow, before.feature_services, after.feature_services)
        self._session.execute(update(CatalogRow).values(generation=CatalogRow.generation + 1))

    def add_part(self, source: str, part: Part) -> bool:
        """Makes rows part of a history; False when the same rows are part of it already."""
        same = select(PartRow.id).where(
            PartRow.data_source == source, PartRow.content == part.content
        )
        if self._session.execute(same).first() is not None:
            return False
        self._session.add(
            PartRow(
                data_source=source,
                content=part.content,
                file=part.file,
                row_count=part.row_count,
                first_time=part.first_time,
                last_time=part.last_time,
            )
        )
        self._session.flush()
        return True

    def files(self, source: str) -> list[HistoryFile]:
        """The files of a history, in the order in which their rows came."""
        query = (
            select(
                PartRow.file,
                func.sum(PartRow.row_count),
                func.min(PartRow.first_time, type_=UtcDateTime),
                func.max(PartRow.last_time, type_=UtcDateTime),
            )
            .where(PartRow.data_source == source)
            .group_by(PartRow.file)
            .order_by(func.min(PartRow.id))
        )
        return [
            HistoryFile(name, int(rows), first, last)
            for name, rows, first, last in self._session.execute(query)
        ]

    def replace_files(self, source: str, old: Sequence[str], new: str) -> None:
        """Says that the rows of some files now lie in one; the files must still be in use."""
        mine = (PartRow.data_source == source) & PartRow.file.in_(old)
        self._session.execute(update(PartRow).where(mine).values(file=new))

    def lock_source(self, source: str) -> None:
        """Keeps others from replacing files of a source until this transaction ends."""
        self._session.execute(
            select(DataSourceRow.id).where(DataSourceRow.id == source).with_for_update()
        )

    def span(self, source: str) -> SourceSpan:
        """How much history a source has."""
        rows, first, last = self._session.execute(
            select(
                func.sum(PartRow.row_count),
                func.min(PartRow.first_time, type_=UtcDateTime),
                func.max(PartRow.last_time, type_=UtcDateTime),
            ).where(PartRow.data_source == source)
        ).one()
        return SourceSpan(int(rows or 0), first, last)

    def snapshot(self, sha256: str) -> Snapshot | None:
        """A snapshot."""
        row = self._session.scalar(select(SnapshotRow).where(SnapshotRow.sha256 == sha256))
        return None if row is None else _snapshot(row)

    def snapshots(self, before: int | None, limit: int) -> list[tuple[int, Snapshot]]:
        """Snapshots with their positions, newest first."""
        query = select(SnapshotRow).order_by(SnapshotRow.position.desc()).limit(limit)
        if before is not None:
            query = query.where(SnapshotRow.position < before)
        return [(row.position, _snapshot(row)) for row in self._session.scalars(query)]

    def add_snapshot(self, snapshot: Snapshot) -> Snapshot:
        """Adds a snapshot; gives the first one of that content."""
        found = self.snapshot(snapshot.sha256)
        if found is not None:
            return found
        self._session.add(SnapshotRow(**_columns(snapshot)))
        self._session.flush()
        return snapshot

    def training_set(self, sha256: str) -> TrainingSet | None:
        """A training set."""
        row = self._session.get(TrainingSetRow, sha256)
        if row is None:
            return None
        return TrainingSet(
            row.sha256,
            row.snapshot,
            row.feature_service,
            row.definitions_hash,
            documents.fields(row.fields),
            row.row_count,
            row.create_time,
        )

    def add_training_set(self, made: TrainingSet) -> TrainingSet:
        """Adds a training set; gives the first one of that content."""
        found = self.training_set(made.sha256)
        if found is not None:
            return found
        fields = [documents.field_document(each) for each in made.fields]
        self._session.add(TrainingSetRow(**{**_columns(made), "fields": fields}))
        self._session.flush()
        return made

    def add_materialization(self, done: Materialization) -> None:
        """Adds a materialization."""
        views = list(done.feature_views)
        self._session.add(MaterializationRow(**{**_columns(done), "feature_views": views}))
        self._session.flush()

    def materializations(self, before: str, limit: int) -> list[Materialization]:
        """Materializations, newest first."""
        query = select(MaterializationRow).order_by(MaterializationRow.id.desc()).limit(limit)
        if before:
            query = query.where(MaterializationRow.id < before)
        return [
            Materialization(
                row.id,
                tuple(row.feature_views),
                row.start_time,
                row.end_time,
                row.row_count,
                row.complete_time,
            )
            for row in self._session.scalars(query)
        ]

    def _all(self, table: Any, read: Callable[[dict[str, Any]], T]) -> dict[str, T]:
        rows = self._session.execute(select(table.id, table.document).order_by(table.id))
        return {id_: read(document) for id_, document in rows}

    def _save(self, table: Any, before: Any, after: Any) -> None:
        for id_, definition in after.items():
            if before.get(id_) != definition:
                self._session.merge(table(id=id_, document=documents.to_document(definition)))
        self._session.flush()


def _columns(record: Any) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__slots__}


def _snapshot(row: SnapshotRow) -> Snapshot:
    return Snapshot(
        row.sha256,
        row.data_source,
        row.start_time,
        row.end_time,
        row.row_count,
        row.create_time,
    )
