"""The kit's own tables for a service's first migration.

Frozen: a later change of such a table gets a function of its own beside these, and each service a
migration that calls it.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from service_kit.database import BigKey, UtcDateTime


def create_idempotency(name: str = "idempotency") -> None:
    """What `service_kit.idempotency.idempotency_table` describes."""
    op.create_table(
        name,
        sa.Column("method", sa.String(200), nullable=False),
        sa.Column("request_id", sa.String(128), nullable=False),
        sa.Column("fingerprint", sa.LargeBinary, nullable=False),
        sa.Column("answer", sa.LargeBinary),
        sa.Column("created", UtcDateTime, nullable=False),
        sa.PrimaryKeyConstraint("method", "request_id", name=f"pk_{name}"),
    )
    op.create_index(f"ix_{name}_created", name, ["created"])


def create_outbox(name: str = "outbox") -> None:
    """What `service_kit.outbox.outbox_table` describes."""
    op.create_table(
        name,
        sa.Column("position", BigKey, nullable=False),
        sa.Column("event_id", sa.String(36), nullable=False),
        sa.Column("stream", sa.String(64), nullable=False),
        sa.Column("key", sa.String(256), nullable=False),
        sa.Column("type", sa.String(200), nullable=False),
        sa.Column("payload", sa.LargeBinary, nullable=False),
        sa.Column("traceparent", sa.String(64), nullable=False),
        sa.Column("occurred", UtcDateTime, nullable=False),
        sa.Column("sent", sa.BigInteger),
        sa.PrimaryKeyConstraint("position", name=f"pk_{name}"),
        sa.UniqueConstraint("event_id", name=f"uq_{name}_event_id"),
    )
    op.create_index(f"ix_{name}_sent_position", name, ["sent", "position"])


def create_consumed_events(name: str = "consumed_events") -> None:
    """What `service_kit.streams.consumer_table` describes."""
    op.create_table(
        name,
        sa.Column("consumer", sa.String(160), nullable=False),
        sa.Column("event_id", sa.String(36), nullable=False),
        sa.Column("consumed", UtcDateTime, nullable=False),
        sa.PrimaryKeyConstraint("consumer", "event_id", name=f"pk_{name}"),
    )
    op.create_index(f"ix_{name}_consumed", name, ["consumed"])
