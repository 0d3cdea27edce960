"""First tables."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from service_kit import kit_tables
from service_kit.database import JsonColumn, UtcDateTime

revision = "0001"
down_revision = None


def upgrade() -> None:
    _monitors()
    _windows()
    _labels()
    _alerts()
    kit_tables.create_idempotency()
    kit_tables.create_outbox()
    kit_tables.create_consumed_events()


def _monitors() -> None:
    op.create_table(
        "monitors",
        sa.Column("id", sa.String(63), nullable=False),
        sa.Column("endpoint", sa.String(128), nullable=False),
        sa.Column("settings", JsonColumn, nullable=False),
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.Column("reference_rows", sa.BigInteger, nullable=False),
        sa.Column("watermark_us", sa.BigInteger),
        sa.Column("created", UtcDateTime, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_monitors"),
    )
    op.create_index("ix_monitors_endpoint", "monitors", ["endpoint"])
    op.create_table(
        "monitor_references",
        sa.Column("monitor", sa.String(63), nullable=False),
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.Column("content", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("monitor", "epoch", name="pk_monitor_references"),
    )


def _windows() -> None:
    op.create_table(
        "windows",
        sa.Column("monitor", sa.String(63), nullable=False),
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.Column("start_us", sa.BigInteger, nullable=False),
        sa.Column("end_us", sa.BigInteger, nullable=False),
        sa.Column("row_count", sa.BigInteger, nullable=False),
        sa.Column("closed", sa.Boolean, nullable=False),
        sa.Column("skipped", sa.Boolean, nullable=False),
        sa.Column("sketches", sa.LargeBinary, nullable=False),
        sa.Column("findings", JsonColumn, nullable=False),
        sa.PrimaryKeyConstraint("monitor", "epoch", "start_us", name="pk_windows"),
    )
    op.create_index(
        "ix_windows_monitor_closed_start_us", "windows", ["monitor", "closed", "start_us"]
    )
    op.create_table(
        "quality",
        sa.Column("monitor", sa.String(63), nullable=False),
        sa.Column("window_us", sa.BigInteger, nullable=False),
        sa.Column("start_us", sa.BigInteger, nullable=False),
        sa.Column("model_version", sa.String(200), nullable=False),
        sa.Column("shadow", sa.Boolean, nullable=False),
        sa.Column("sketch", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint(
            "monitor", "window_us", "start_us", "model_version", "shadow", name="pk_quality"
        ),
    )


def _labels() -> None:
    op.create_table(
        "predictions",
        sa.Column("prediction_id", sa.String(64), nullable=False),
        sa.Column("model_version", sa.String(200), nullable=False),
        sa.Column("shadow", sa.Boolean, nullable=False),
        sa.Column("endpoint", sa.String(128), nullable=False),
        sa.Column("event_us", sa.BigInteger, nullable=False),
        sa.Column("score", sa.Float, nullable=False),
        sa.PrimaryKeyConstraint("prediction_id", "model_version", "shadow", name="pk_predictions"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_predictions_endpoint_event_us", "predictions", ["endpoint", "event_us"])
    op.create_table(
        "outcomes",
        sa.Column("metric", sa.String(64), nullable=False),
        sa.Column("prediction_id", sa.String(64), nullable=False),
        sa.Column("value", sa.Float, nullable=False),
        sa.Column("event_us", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("metric", "prediction_id", name="pk_outcomes"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_outcomes_event_us", "outcomes", ["event_us"])


def _alerts() -> None:
    op.create_table(
        "alerts",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("monitor", sa.String(63), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("severity", sa.Integer, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("summary", sa.Text, nullable=False),
        sa.Column("features", JsonColumn, nullable=False),
        sa.Column("event_us", sa.BigInteger, nullable=False),
        sa.Column("created", UtcDateTime, nullable=False),
        sa.Column("calm_windows", sa.Integer, nullable=False),
        sa.Column("comment", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_alerts"),
    )
    op.create_index("ix_alerts_monitor_state", "alerts", ["monitor", "state"])
    op.create_table(
        "actions",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("alert", sa.String(36), nullable=False),
        sa.Column("monitor", sa.String(63), nullable=False),
        sa.Column("policy", JsonColumn, nullable=False),
        sa.Column("request_id", sa.String(64), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("event_us", sa.BigInteger, nullable=False),
        sa.Column("result", sa.Text, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("due", UtcDateTime, nullable=False),
        sa.Column("time", UtcDateTime),
        sa.PrimaryKeyConstraint("id", name="pk_actions"),
    )
    op.create_index("ix_actions_alert", "actions", ["alert"])
    op.create_index("ix_actions_monitor", "actions", ["monitor"])
    op.create_index("ix_actions_state_due", "actions", ["state", "due"])
