"""Conversions of model files."""

import sqlalchemy as sa
from alembic import op

from service_kit.database import JsonColumn

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "conversions",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("document", JsonColumn, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_conversions"),
    )
    op.create_index("ix_conversions_state", "conversions", ["state"])
