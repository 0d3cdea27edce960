"""The tables of the service."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    Index,
    Integer,
    LargeBinary,
    String,
    Table,
    Text,
)

from service_kit.database import JsonColumn, UtcDateTime, make_metadata
from service_kit.idempotency import idempotency_table
from service_kit.outbox import outbox_table
from service_kit.streams import consumer_table

metadata = make_metadata()

monitors = Table(
    "monitors",
    metadata,
    Column("id", String(63), primary_key=True),
    Column("endpoint", String(128), nullable=False, index=True),
    Column("settings", JsonColumn, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("reference_rows", BigInteger, nullable=False),
    Column("watermark_us", BigInteger, nullable=True),
    Column("early_rows", Integer, nullable=False, server_default="0"),
    Column("early_from_us", BigInteger, nullable=True),
    Column("early_to_us", BigInteger, nullable=True),
    Column("created", UtcDateTime, nullable=False),
    Column("since_us", BigInteger, nullable=True),
    Column("reference_version", String(200), nullable=False, server_default=""),
    Column("following", JsonColumn, nullable=True),
    Column("following_due", UtcDateTime, nullable=True),
)

monitor_references = Table(
    "monitor_references",
    metadata,
    Column("monitor", String(63), primary_key=True),
    Column("epoch", Integer, primary_key=True),
    Column("content", LargeBinary, nullable=False),
)

windows = Table(
    "windows",
    metadata,
    Column("monitor", String(63), primary_key=True),
    Column("epoch", Integer, primary_key=True),
    Column("start_us", BigInteger, primary_key=True),
    Column("end_us", BigInteger, nullable=False),
    Column("row_count", BigInteger, nullable=False),
    Column("closed", Boolean, nullable=False),
    Column("skipped", Boolean, nullable=False),
    Column("sketches", LargeBinary, nullable=False),
    Column("findings", JsonColumn, nullable=False),
    Index("ix_windows_monitor_closed_start_us", "monitor", "closed", "start_us"),
)

predictions = Table(
    "predictions",
    metadata,
    Column("prediction_id", String(64), primary_key=True),
    Column("model_version", String(200), primary_key=True),
    Column("shadow", Boolean, primary_key=True),
    Column("endpoint", String(128), nullable=False),
    Column("event_us", BigInteger, nullable=False),
    Column("score", Float, nullable=False),
    Index("ix_predictions_endpoint_event_us", "endpoint", "event_us"),
    sqlite_with_rowid=False,
)

outcomes = Table(
    "outcomes",
    metadata,
    Column("metric", String(64), primary_key=True),
    Column("prediction_id", String(64), primary_key=True),
    Column("value", Float, nullable=False),
    Column("event_us", BigInteger, nullable=False),
    Column(
        "arrived", UtcDateTime, nullable=False, index=True, server_default="1970-01-01 00:00:00"
    ),
    sqlite_with_rowid=False,
)

quality = Table(
    "quality",
    metadata,
    Column("monitor", String(63), primary_key=True),
    Column("window_us", BigInteger, primary_key=True),
    Column("start_us", BigInteger, primary_key=True),
    Column("model_version", String(200), primary_key=True),
    Column("shadow", Boolean, primary_key=True),
    Column("sketch", LargeBinary, nullable=False),
)

alerts = Table(
    "alerts",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("monitor", String(63), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("severity", Integer, nullable=False),
    Column("state", String(16), nullable=False),
    Column("summary", Text, nullable=False),
    Column("features", JsonColumn, nullable=False),
    Column("event_us", BigInteger, nullable=False),
    Column("created", UtcDateTime, nullable=False),
    Column("calm_windows", Integer, nullable=False),
    Column("comment", Text, nullable=False),
    Index("ix_alerts_monitor_state", "monitor", "state"),
)

actions = Table(
    "actions",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("alert", String(36), nullable=False, index=True),
    Column("monitor", String(63), nullable=False, index=True),
    Column("policy", JsonColumn, nullable=False),
    Column("request_id", String(64), nullable=False),
    Column("state", String(16), nullable=False),
    Column("event_us", BigInteger, nullable=False),
    Column("result", Text, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("due", UtcDateTime, nullable=False),
    Column("time", UtcDateTime, nullable=True),
    Column("why", Text, nullable=False, server_default=""),
    Index("ix_actions_state_due", "state", "due"),
)

idempotency = idempotency_table(metadata)
outbox = outbox_table(metadata)
consumed = consumer_table(metadata)
