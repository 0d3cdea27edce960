"""Books, and the tables of the kit."""

import sqlalchemy as sa
from alembic import op

from service_kit.database import JsonColumn, UtcDateTime
from service_kit.kit_tables import create_consumed_events, create_idempotency, create_outbox

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "books",
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("shelf", sa.String(63), nullable=False),
        sa.Column("tags", JsonColumn),
        sa.Column("created", UtcDateTime, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_books"),
        sa.ForeignKeyConstraint(["shelf"], ["shelves.name"], name="fk_books_shelf_shelves"),
    )
    create_idempotency()
    create_outbox()
    create_consumed_events()
