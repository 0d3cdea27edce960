"""The tables of training and the repository over them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from sqlalchemy import Engine, String, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from service_kit.database import JsonColumn, UtcDateTime, make_metadata, reading, transaction
from service_kit.idempotency import idempotency_table
from training_svc.documents import (
    conversion_document,
    conversion_from,
    pipeline_document,
    pipeline_from,
    run_document,
    run_from,
)
from training_svc.domain.conversions import Conversion, ConversionState
from training_svc.domain.pipelines import ENDED, Pipeline, PipelineRun


class Base(DeclarativeBase):
    """Declarative base of training."""

    metadata = make_metadata()


class PipelineRow(Base):
    """A pipeline; deleted ones stay for the sake of their runs."""

    __tablename__ = "pipelines"

    id: Mapped[str] = mapped_column(String(63), primary_key=True)
    document: Mapped[dict[str, Any]] = mapped_column(JsonColumn)
    deleted: Mapped[bool] = mapped_column(default=False)


class RunRow(Base):
    """A run; its id (UUIDv7) sorts by time."""

    __tablename__ = "pipeline_runs"

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    pipeline: Mapped[str] = mapped_column(String(63), index=True)
    state: Mapped[str] = mapped_column(String(20), index=True)
    document: Mapped[dict[str, Any]] = mapped_column(JsonColumn)
    pipeline_document: Mapped[dict[str, Any]] = mapped_column(JsonColumn)
    create_time: Mapped[datetime] = mapped_column(UtcDateTime)


class ConversionRow(Base):
    """A conversion; its id (UUIDv7) sorts by time."""

    __tablename__ = "conversions"

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    state: Mapped[str] = mapped_column(String(20), index=True)
    document: Mapped[dict[str, Any]] = mapped_column(JsonColumn)


idempotency = idempotency_table(Base)


class SqlRecords:
    """Pipelines, runs and conversions within one transaction."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def pipeline(self, pipeline_id: str) -> Pipeline | None:
        """Gets a pipeline that is not deleted."""
        row = self._session.get(PipelineRow, pipeline_id)
        return None if row is None or row.deleted else pipeline_from(row.document)

    def pipelines(self, after: str, limit: int) -> list[Pipeline]:
        """Lists pipelines by id."""
        query = select(PipelineRow).where(PipelineRow.id > after, PipelineRow.deleted.is_(False))
        rows = self._session.scalars(query.order_by(PipelineRow.id).limit(limit))
        return [pipeline_from(row.document) for row in rows]

    def save_pipeline(self, pipeline: Pipeline) -> None:
        """Creates or changes a pipeline."""
        row = self._session.get(PipelineRow, pipeline.id) or PipelineRow(id=pipeline.id)
        row.document, row.deleted = pipeline_document(pipeline), False
        self._session.add(row)
        self._session.flush()

    def delete_pipeline(self, pipeline_id: str) -> None:
        """Marks a pipeline as deleted."""
        self._session.get_one(PipelineRow, pipeline_id).deleted = True
        self._session.flush()

    def run(self, run_id: str, *, to_change: bool = False) -> PipelineRun | None:
        """Gets a run, locked until the transaction ends when it is to be changed."""
        row = self._session.get(RunRow, run_id, with_for_update=to_change)
        return None if row is None else run_from(row.document)

    def runs(self, pipeline_id: str, below: str, limit: int) -> list[PipelineRun]:
        """Lists runs of a pipeline (`-` for all), newest first, with ids below a bound."""
        query = select(RunRow)
        if pipeline_id != "-":
            query = query.where(RunRow.pipeline == pipeline_id)
        if below:
            query = query.where(RunRow.id < below)
        rows = self._session.scalars(query.order_by(RunRow.id.desc()).limit(limit))
        return [run_from(row.document) for row in rows]

    def unfinished_runs(self) -> list[PipelineRun]:
        """Lists all runs that have not ended, oldest first."""
        query = select(RunRow).where(RunRow.state.not_in(sorted(ENDED))).order_by(RunRow.id)
        return [run_from(row.document) for row in self._session.scalars(query)]

    def add_run(self, run: PipelineRun, pipeline: Pipeline) -> None:
        """Records a run with its pipeline as it is now."""
        row = RunRow(
            id=run.id,
            pipeline=run.pipeline,
            state=run.state,
            document=run_document(run),
            pipeline_document=pipeline_document(pipeline),
            create_time=run.create_time,
        )
        self._session.add(row)
        self._session.flush()

    def run_pipeline(self, run_id: str) -> Pipeline:
        """The pipeline of a run as it was when the run was asked for."""
        return pipeline_from(self._session.get_one(RunRow, run_id).pipeline_document)

    def save_run(self, run: PipelineRun) -> None:
        """Changes a run."""
        row = self._session.get_one(RunRow, run.id)
        row.state, row.document = run.state, run_document(run)
        self._session.flush()

    def conversion(self, conversion_id: str, *, to_change: bool = False) -> Conversion | None:
        """Gets a conversion, locked until the transaction ends when it is to be changed."""
        row = self._session.get(ConversionRow, conversion_id, with_for_update=to_change)
        return None if row is None else conversion_from(row.document)

    def conversions(self, below: str, limit: int) -> list[Conversion]:
        """Lists conversions, newest first, with ids below a bound."""
        query = select(ConversionRow)
        if below:
            query = query.where(ConversionRow.id < below)
        rows = self._session.scalars(query.order_by(ConversionRow.id.desc()).limit(limit))
        return [conversion_from(row.document) for row in rows]

    def unfinished_conversions(self) -> list[Conversion]:
        """Lists all conversions that have not ended, oldest first."""
        under_way = sorted(each for each in ConversionState if not each.ended)
        query = select(ConversionRow).where(ConversionRow.state.in_(under_way))
        rows = self._session.scalars(query.order_by(ConversionRow.id))
        return [conversion_from(row.document) for row in rows]

    def save_conversion(self, conversion: Conversion) -> None:
        """Creates or changes a conversion."""
        row = self._session.get(ConversionRow, conversion.id) or ConversionRow(id=conversion.id)
        row.state, row.document = conversion.state, conversion_document(conversion)
        self._session.add(row)
        self._session.flush()


class SqlStore:
    """Opens transactions on the database of training."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @contextmanager
    def transaction(self) -> Iterator[SqlRecords]:
        """A transaction."""
        with transaction(self._engine) as session:
            yield SqlRecords(session)

    @contextmanager
    def reading(self) -> Iterator[SqlRecords]:
        """A transaction that changes nothing."""
        with reading(self._engine) as session:
            yield SqlRecords(session)
