"""Tables of serving."""

from __future__ import annotations

from datetime import date, datetime
from typing import Any

from sqlalchemy import BigInteger, Boolean, Date, ForeignKey, Index, LargeBinary, String, Text, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from service_kit.database import BigKey, JsonColumn, UtcDateTime, make_metadata
from service_kit.idempotency import idempotency_table
from service_kit.outbox import outbox_table
from service_kit.streams import consumer_table

_ID = String(128)
_NAME = String(300)


class Base(DeclarativeBase):
    """Declarative base of serving."""

    metadata = make_metadata()


class EndpointRow(Base):
    """An endpoint."""

    __tablename__ = "endpoints"

    endpoint_id: Mapped[str] = mapped_column(_ID, primary_key=True)
    model: Mapped[str] = mapped_column(_NAME)
    description: Mapped[str] = mapped_column(Text)
    routing_key: Mapped[str] = mapped_column(_NAME)
    outcome_independent: Mapped[bool] = mapped_column(Boolean)
    default_outputs: Mapped[list[float]] = mapped_column(JsonColumn)
    deadline_ms: Mapped[int] = mapped_column(BigInteger)
    min_replicas: Mapped[int]
    max_replicas: Mapped[int]
    max_in_flight: Mapped[int]
    generation: Mapped[int] = mapped_column(BigInteger)
    deploying: Mapped[str] = mapped_column(_NAME)
    deploy_workflow: Mapped[str] = mapped_column(_ID)
    failure: Mapped[str] = mapped_column(Text)
    created: Mapped[datetime] = mapped_column(UtcDateTime)
    replica_gpus: Mapped[float | None]
    routing_header: Mapped[str] = mapped_column(_ID, server_default="")
    cache_rows: Mapped[int] = mapped_column(server_default="0")
    last_answer_rows: Mapped[int] = mapped_column(server_default="0")
    last_answer_age_s: Mapped[int] = mapped_column(server_default="3600")


class TableRow(Base):
    """A generation of an endpoint's traffic."""

    __tablename__ = "traffic_tables"

    endpoint_id: Mapped[str] = mapped_column(
        ForeignKey("endpoints.endpoint_id", ondelete="CASCADE"), primary_key=True
    )
    generation: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    variants: Mapped[list[dict[str, Any]]] = mapped_column(JsonColumn)
    champion: Mapped[str] = mapped_column(_ID)
    salt: Mapped[str] = mapped_column(_ID)
    experiment: Mapped[str] = mapped_column(_NAME)
    overrides: Mapped[dict[str, str]] = mapped_column(JsonColumn)
    reason: Mapped[str] = mapped_column(Text)
    actor: Mapped[str] = mapped_column(_NAME)
    created: Mapped[datetime] = mapped_column(UtcDateTime)
    last_good: Mapped[int] = mapped_column(BigInteger)
    transitional: Mapped[bool] = mapped_column(Boolean)


class DeploymentRow(Base):
    """A version that is loaded, or is to be; outlives its endpoint until it has stopped."""

    __tablename__ = "deployments"

    app: Mapped[str] = mapped_column(_NAME, primary_key=True)
    endpoint_id: Mapped[str] = mapped_column(_ID, index=True)
    model_version: Mapped[str] = mapped_column(_NAME)
    runtime: Mapped[str] = mapped_column(_ID)
    artifact: Mapped[str] = mapped_column(_ID)
    inputs: Mapped[int]
    outputs: Mapped[int]
    signature: Mapped[bytes] = mapped_column(LargeBinary)
    replicas: Mapped[int]
    wanted: Mapped[bool] = mapped_column(Boolean)
    failure: Mapped[str] = mapped_column(Text)
    created: Mapped[datetime] = mapped_column(UtcDateTime)
    gpus: Mapped[float | None]


class RolloutRow(Base):
    """A rollout; at most one of an endpoint is active."""

    __tablename__ = "rollouts"
    __table_args__ = (
        Index(
            "uq_rollouts_active",
            "endpoint_id",
            unique=True,
            sqlite_where=text("ended IS NULL"),
            postgresql_where=text("ended IS NULL"),
        ),
        Index("ix_rollouts_endpoint_id_rollout_id", "endpoint_id", "rollout_id"),
    )

    rollout_id: Mapped[str] = mapped_column(_ID, primary_key=True)
    endpoint_id: Mapped[str] = mapped_column(
        ForeignKey("endpoints.endpoint_id", ondelete="CASCADE")
    )
    model_version: Mapped[str] = mapped_column(_NAME)
    champion_version: Mapped[str] = mapped_column(_NAME)
    strategy: Mapped[dict[str, Any]] = mapped_column(JsonColumn)
    created: Mapped[datetime] = mapped_column(UtcDateTime)
    actor: Mapped[str] = mapped_column(_NAME)
    base_generation: Mapped[int] = mapped_column(BigInteger)
    table_generation: Mapped[int] = mapped_column(BigInteger)
    state: Mapped[str] = mapped_column(String(32))
    stage: Mapped[int]
    stage_samples: Mapped[int] = mapped_column(BigInteger)
    weight: Mapped[float]
    experiment: Mapped[str] = mapped_column(_NAME)
    paused: Mapped[bool] = mapped_column(Boolean)
    ended: Mapped[datetime | None] = mapped_column(UtcDateTime)
    reason: Mapped[str] = mapped_column(Text)


class RolloutEventRow(Base):
    """One thing that happened in a rollout."""

    __tablename__ = "rollout_events"

    position: Mapped[int] = mapped_column(BigKey, primary_key=True)
    rollout_id: Mapped[str] = mapped_column(
        ForeignKey("rollouts.rollout_id", ondelete="CASCADE"), index=True
    )
    step: Mapped[str] = mapped_column(_ID)
    decision: Mapped[str] = mapped_column(_ID)
    reasons: Mapped[list[str]] = mapped_column(JsonColumn)
    samples: Mapped[int] = mapped_column(BigInteger)
    at: Mapped[datetime] = mapped_column(UtcDateTime)


class PredictionFileRow(Base):
    """A file of the prediction log; one that is not listed here is not part of it."""

    __tablename__ = "prediction_files"
    __table_args__ = (Index("ix_prediction_files_day_min_id", "day", "min_id"),)

    file_id: Mapped[str] = mapped_column(String(36), primary_key=True)
    endpoint_id: Mapped[str] = mapped_column(_ID)
    day: Mapped[date] = mapped_column(Date)
    shape: Mapped[str] = mapped_column(String(16))
    min_id: Mapped[str] = mapped_column(String(36))
    max_id: Mapped[str] = mapped_column(String(36))
    rows: Mapped[int] = mapped_column(BigInteger)
    size: Mapped[int] = mapped_column(BigInteger)


class BatchRow(Base):
    """A batch prediction."""

    __tablename__ = "batch_predictions"

    batch_id: Mapped[str] = mapped_column(String(36), primary_key=True)
    endpoint_id: Mapped[str] = mapped_column(_ID)
    model_version: Mapped[str] = mapped_column(_NAME)
    source: Mapped[str] = mapped_column(_NAME)
    format: Mapped[str] = mapped_column(String(32))
    features: Mapped[str] = mapped_column(String(32))
    row_key: Mapped[str] = mapped_column(_NAME)
    creator: Mapped[str] = mapped_column(_NAME)
    state: Mapped[str] = mapped_column(String(32), index=True)
    rows: Mapped[int] = mapped_column(BigInteger)
    done: Mapped[int] = mapped_column(BigInteger)
    refused: Mapped[int] = mapped_column(BigInteger)
    output: Mapped[str] = mapped_column(_NAME)
    errors: Mapped[str] = mapped_column(_NAME)
    reason: Mapped[str] = mapped_column(Text)
    created: Mapped[datetime] = mapped_column(UtcDateTime)
    ended: Mapped[datetime | None] = mapped_column(UtcDateTime)


class StreamScorerRow(Base):
    """A stream scorer; a deleted one stays until its place in the stream is removed."""

    __tablename__ = "stream_scorers"
    __table_args__ = (
        Index(
            "uq_stream_scorers_name",
            "endpoint_id",
            "scorer_id",
            unique=True,
            sqlite_where=text("NOT deleted"),
            postgresql_where=text("NOT deleted"),
        ),
    )

    uid: Mapped[str] = mapped_column(String(36), primary_key=True)
    endpoint_id: Mapped[str] = mapped_column(_ID)
    scorer_id: Mapped[str] = mapped_column(_ID)
    source: Mapped[str] = mapped_column(_NAME)
    results: Mapped[str] = mapped_column(_NAME)
    dead_letters: Mapped[str] = mapped_column(_NAME)
    input_fields: Mapped[dict[str, str]] = mapped_column(JsonColumn)
    max_rows: Mapped[int]
    start: Mapped[str] = mapped_column(String(32))
    dedupe_window_ms: Mapped[int] = mapped_column(BigInteger)
    dedupe_limit: Mapped[int] = mapped_column(BigInteger)
    result_limit: Mapped[int] = mapped_column(BigInteger)
    state: Mapped[str] = mapped_column(String(32))
    creator: Mapped[str] = mapped_column(_NAME)
    created: Mapped[datetime] = mapped_column(UtcDateTime)
    deleted: Mapped[bool] = mapped_column(Boolean, default=False)


IDEMPOTENCY = idempotency_table(Base)
OUTBOX = outbox_table(Base)
CONSUMED = consumer_table(Base)
