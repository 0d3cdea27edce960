"""Definitions, histories, snapshots, training sets and materializations."""

import sqlalchemy as sa
from alembic import op

from service_kit import kit_tables
from service_kit.database import BigKey, JsonColumn, UtcDateTime

revision = "0001"
down_revision = None


def upgrade() -> None:
    catalog = op.create_table(
        "catalog",
        sa.Column("id", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("generation", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_catalog"),
    )
    op.bulk_insert(catalog, [{"id": 1, "generation": 0}])
    for name in ("entities", "data_sources", "feature_views", "feature_services"):
        op.create_table(
            name,
            sa.Column("id", sa.String(63), nullable=False),
            sa.Column("document", JsonColumn, nullable=False),
            sa.PrimaryKeyConstraint("id", name=f"pk_{name}"),
        )
    op.create_table(
        "history_parts",
        sa.Column("id", BigKey, nullable=False, autoincrement=True),
        sa.Column("data_source", sa.String(63), nullable=False),
        sa.Column("content", sa.String(64), nullable=False),
        sa.Column("file", sa.String(64), nullable=False),
        sa.Column("row_count", sa.BigInteger, nullable=False),
        sa.Column("first_time", UtcDateTime, nullable=False),
        sa.Column("last_time", UtcDateTime, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_history_parts"),
        sa.UniqueConstraint("data_source", "content", name="uq_history_parts_data_source_content"),
    )
    op.create_table(
        "snapshots",
        sa.Column("position", BigKey, nullable=False, autoincrement=True),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("data_source", sa.String(63), nullable=False),
        sa.Column("start_time", UtcDateTime),
        sa.Column("end_time", UtcDateTime, nullable=False),
        sa.Column("row_count", sa.BigInteger, nullable=False),
        sa.Column("create_time", UtcDateTime, nullable=False),
        sa.PrimaryKeyConstraint("position", name="pk_snapshots"),
        sa.UniqueConstraint("sha256", name="uq_snapshots_sha256"),
    )
    op.create_table(
        "training_sets",
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("snapshot", sa.String(64), nullable=False),
        sa.Column("feature_service", sa.String(63), nullable=False),
        sa.Column("definitions_hash", sa.String(64), nullable=False),
        sa.Column("fields", JsonColumn, nullable=False),
        sa.Column("row_count", sa.BigInteger, nullable=False),
        sa.Column("create_time", UtcDateTime, nullable=False),
        sa.PrimaryKeyConstraint("sha256", name="pk_training_sets"),
    )
    op.create_index("ix_training_sets_snapshot", "training_sets", ["snapshot"])
    op.create_table(
        "materializations",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("feature_views", JsonColumn, nullable=False),
        sa.Column("start_time", UtcDateTime, nullable=False),
        sa.Column("end_time", UtcDateTime, nullable=False),
        sa.Column("row_count", sa.BigInteger, nullable=False),
        sa.Column("complete_time", UtcDateTime, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_materializations"),
    )
    kit_tables.create_idempotency()
