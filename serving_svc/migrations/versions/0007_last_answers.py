"""Endpoints that remember answers as a last resort."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.add_column(
        "endpoints", sa.Column("last_answer_rows", sa.Integer, nullable=False, server_default="0")
    )
    op.add_column(
        "endpoints",
        sa.Column("last_answer_age_s", sa.Integer, nullable=False, server_default="3600"),
    )
