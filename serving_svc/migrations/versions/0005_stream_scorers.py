"""Stream scorers."""

import sqlalchemy as sa
from alembic import op

from service_kit.database import JsonColumn, UtcDateTime

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.create_table(
        "stream_scorers",
        sa.Column("uid", sa.String(36), nullable=False),
        sa.Column("endpoint_id", sa.String(128), nullable=False),
        sa.Column("scorer_id", sa.String(128), nullable=False),
        sa.Column("source", sa.String(300), nullable=False),
        sa.Column("results", sa.String(300), nullable=False),
        sa.Column("dead_letters", sa.String(300), nullable=False),
        sa.Column("input_fields", JsonColumn, nullable=False),
        sa.Column("max_rows", sa.Integer, nullable=False),
        sa.Column("start", sa.String(32), nullable=False),
        sa.Column("dedupe_window_ms", sa.BigInteger, nullable=False),
        sa.Column("dedupe_limit", sa.BigInteger, nullable=False),
        sa.Column("result_limit", sa.BigInteger, nullable=False),
        sa.Column("state", sa.String(32), nullable=False),
        sa.Column("creator", sa.String(300), nullable=False),
        sa.Column("created", UtcDateTime, nullable=False),
        sa.Column("deleted", sa.Boolean, nullable=False),
        sa.PrimaryKeyConstraint("uid", name="pk_stream_scorers"),
    )
    op.create_index(
        "uq_stream_scorers_name",
        "stream_scorers",
        ["endpoint_id", "scorer_id"],
        unique=True,
        sqlite_where=sa.text("NOT deleted"),
        postgresql_where=sa.text("NOT deleted"),
    )
