"""What speaks for a jump of the watermark; whose the reference is; why an action was asked for."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from service_kit.database import JsonColumn, UtcDateTime

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    for column in (
        sa.Column("early_rows", sa.Integer, nullable=False, server_default="0"),
        sa.Column("early_from_us", sa.BigInteger),
        sa.Column("early_to_us", sa.BigInteger),
        sa.Column("since_us", sa.BigInteger),
        sa.Column("reference_version", sa.String(200), nullable=False, server_default=""),
        sa.Column("following", JsonColumn),
        sa.Column("following_due", UtcDateTime),
    ):
        op.add_column("monitors", column)
    op.add_column("actions", sa.Column("why", sa.Text, nullable=False, server_default=""))
