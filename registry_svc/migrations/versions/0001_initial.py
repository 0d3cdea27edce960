"""Models, versions, aliases, artifacts and audit."""

import sqlalchemy as sa
from alembic import op

from service_kit import kit_tables
from service_kit.database import BigKey, JsonColumn, UtcDateTime

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "models",
        sa.Column("id", sa.String(63), nullable=False),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("tags", JsonColumn, nullable=False),
        sa.Column("requires_approval", sa.Boolean, nullable=False),
        sa.Column("create_time", UtcDateTime, nullable=False),
        sa.Column("update_time", UtcDateTime, nullable=False),
        sa.Column("version_count", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_models"),
    )
    op.create_table(
        "model_versions",
        sa.Column("model", sa.String(63), nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("stage", sa.String(16), nullable=False),
        sa.Column("document", JsonColumn, nullable=False),
        sa.PrimaryKeyConstraint("model", "number", name="pk_model_versions"),
        sa.ForeignKeyConstraint(["model"], ["models.id"], name="fk_model_versions_model_models"),
    )
    op.create_table(
        "model_aliases",
        sa.Column("model", sa.String(63), nullable=False),
        sa.Column("alias", sa.String(63), nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("model", "alias", name="pk_model_aliases"),
        sa.ForeignKeyConstraint(
            ["model", "number"],
            ["model_versions.model", "model_versions.number"],
            name="fk_model_aliases_model_number_model_versions",
        ),
    )
    op.create_table(
        "artifacts",
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("size_bytes", BigKey, nullable=False),
        sa.Column("create_time", UtcDateTime, nullable=False),
        sa.PrimaryKeyConstraint("sha256", name="pk_artifacts"),
    )
    op.create_table(
        "audit_events",
        sa.Column("id", BigKey, nullable=False, autoincrement=True),
        sa.Column("resource", sa.String(256), nullable=False),
        sa.Column("action", sa.String(100), nullable=False),
        sa.Column("actor", sa.String(200), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("event_time", UtcDateTime, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_audit_events"),
    )
    op.create_index("ix_audit_events_resource", "audit_events", ["resource"])
    kit_tables.create_idempotency()
    kit_tables.create_outbox()
