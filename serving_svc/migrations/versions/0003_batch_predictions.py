"""Batch predictions."""

import sqlalchemy as sa
from alembic import op

from service_kit.database import UtcDateTime

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_table(
        "batch_predictions",
        sa.Column("batch_id", sa.String(36), nullable=False),
        sa.Column("endpoint_id", sa.String(128), nullable=False),
        sa.Column("model_version", sa.String(300), nullable=False),
        sa.Column("source", sa.String(300), nullable=False),
        sa.Column("format", sa.String(32), nullable=False),
        sa.Column("features", sa.String(32), nullable=False),
        sa.Column("row_key", sa.String(300), nullable=False),
        sa.Column("creator", sa.String(300), nullable=False),
        sa.Column("state", sa.String(32), nullable=False),
        sa.Column("rows", sa.BigInteger, nullable=False),
        sa.Column("done", sa.BigInteger, nullable=False),
        sa.Column("refused", sa.BigInteger, nullable=False),
        sa.Column("output", sa.String(300), nullable=False),
        sa.Column("errors", sa.String(300), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("created", UtcDateTime, nullable=False),
        sa.Column("ended", UtcDateTime),
        sa.PrimaryKeyConstraint("batch_id", name="pk_batch_predictions"),
    )
    op.create_index("ix_batch_predictions_state", "batch_predictions", ["state"])
