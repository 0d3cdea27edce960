"""The tables of training and the repository over them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from sqlalchemy import Engine, String, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from service_kit.database import JsonColumn, UtcDateTime, make_metadata, transaction
from service_kit.idempotency import idempotency_table
from training_svc.documents import pipeline_document, pipeline_from, run_document, run_from
from training_svc.domain.pipelines import Pipeline, PipelineRun


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
    create_time: Mapped[datetime] = mapped_column(UtcDateTime)


idempotency = idempotency_table(Base)


class SqlRecords:
    """Pipelines and runs within one transaction."""

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

    def run(self, run_id: str) -> PipelineRun | None:
        """Gets a run."""
        row = self._session.get(RunRow, run_id)
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

    def save_run(self, run: PipelineRun) -> None:
        """Creates or changes a run."""
        row = self._session.get(RunRow, run.id) or RunRow(id=run.id, create_time=run.create_time)
        row.pipeline, row.state = run.pipeline, run.state
        row.document = run_document(run)
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
