"""API keys."""

import sqlalchemy as sa
from alembic import op

from service_kit.database import JsonColumn, UtcDateTime

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "api_keys",
        sa.Column("prefix", sa.String(8), nullable=False),
        sa.Column("digest", sa.LargeBinary(32), nullable=False),
        sa.Column("principal", sa.String(160), nullable=False),
        sa.Column("scopes", JsonColumn, nullable=False),
        sa.Column("created", UtcDateTime, nullable=False),
        sa.Column("revoked", UtcDateTime),
        sa.PrimaryKeyConstraint("prefix", name="pk_api_keys"),
    )
