"""Shelves."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "shelves",
        sa.Column("name", sa.String(63), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_shelves"),
    )
