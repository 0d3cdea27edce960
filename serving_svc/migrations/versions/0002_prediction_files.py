"""The files of the prediction log, and what of its stream has been taken."""

import sqlalchemy as sa
from alembic import op

from service_kit.kit_tables import create_consumed_events

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "prediction_files",
        sa.Column("file_id", sa.String(36), nullable=False),
        sa.Column("endpoint_id", sa.String(128), nullable=False),
        sa.Column("day", sa.Date, nullable=False),
        sa.Column("shape", sa.String(16), nullable=False),
        sa.Column("min_id", sa.String(36), nullable=False),
        sa.Column("max_id", sa.String(36), nullable=False),
        sa.Column("rows", sa.BigInteger, nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("file_id", name="pk_prediction_files"),
    )
    op.create_index("ix_prediction_files_day_min_id", "prediction_files", ["day", "min_id"])
    create_consumed_events()
