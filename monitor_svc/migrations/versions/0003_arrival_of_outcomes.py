"""When outcomes came, by which those that belong to no prediction are forgotten."""

from __future__ import annotations

from datetime import UTC, datetime

import sqlalchemy as sa
from alembic import op

from service_kit.database import UtcDateTime

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    default = "1970-01-01 00:00:00"
    op.add_column(
        "outcomes", sa.Column("arrived", UtcDateTime, nullable=False, server_default=default)
    )
    # When the ones that are there came is not known: they are kept for the whole time from now on.
    outcomes = sa.table("outcomes", sa.column("arrived", UtcDateTime))
    op.execute(outcomes.update().values(arrived=datetime.now(UTC)))
    op.drop_index("ix_outcomes_event_us", "outcomes")
    op.create_index("ix_outcomes_arrived", "outcomes", ["arrived"])
