"""What endpoints say of their traffic: the header that names the unit of a request, and answers that are kept."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.add_column(
        "endpoints", sa.Column("routing_header", sa.String(128), nullable=False, server_default="")
    )
    op.add_column(
        "endpoints", sa.Column("cache_rows", sa.Integer, nullable=False, server_default="0")
    )
