"""Experiments, analyses, exposures, outcomes and sufficient statistics."""

import sqlalchemy as sa
from alembic import op

from service_kit import kit_tables
from service_kit.database import BigKey, JsonColumn, UtcDateTime

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "experiments",
        sa.Column("number", BigKey, nullable=False),
        sa.Column("id", sa.String(63), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("plan", JsonColumn, nullable=False),
        sa.Column("created", UtcDateTime, nullable=False),
        sa.Column("concluded", UtcDateTime),
        sa.Column("conclusion", sa.Text, nullable=False),
        sa.Column("max_delay_us", sa.BigInteger, nullable=False),
        sa.Column("newest_us", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_experiments"),
        sa.UniqueConstraint("id", name="uq_experiments_id"),
    )
    op.create_index("ix_experiments_state", "experiments", ["state"])
    op.create_table(
        "analyses",
        sa.Column("number", BigKey, nullable=False),
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("experiment", sa.BigInteger, nullable=False),
        sa.Column("created", UtcDateTime, nullable=False),
        sa.Column("verdict", JsonColumn, nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_analyses"),
    )
    op.create_index("ix_analyses_experiment_number", "analyses", ["experiment", "number"])
    op.create_table(
        "exposures",
        sa.Column("prediction_id", sa.String(128), nullable=False),
        sa.Column("experiment", sa.BigInteger, nullable=False),
        sa.Column("assigned", sa.SmallInteger, nullable=False),
        sa.Column("scores", sa.LargeBinary, nullable=False),
        sa.Column("event_us", sa.BigInteger, nullable=False),
        sa.Column("outcome", sa.Double),
        sa.PrimaryKeyConstraint("prediction_id", "experiment", name="pk_exposures"),
    )
    op.create_index("ix_exposures_experiment_event_us", "exposures", ["experiment", "event_us"])
    op.create_table(
        "units",
        sa.Column("experiment", sa.BigInteger, nullable=False),
        sa.Column("unit", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("experiment", "unit", name="pk_units"),
    )
    op.create_table(
        "held_outcomes",
        sa.Column("number", BigKey, nullable=False),
        sa.Column("prediction_id", sa.String(128), nullable=False),
        sa.Column("value", sa.Double, nullable=False),
        sa.Column("event_us", sa.BigInteger, nullable=False),
        sa.Column("received", UtcDateTime, nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_held_outcomes"),
        sa.UniqueConstraint("prediction_id", name="uq_held_outcomes_prediction_id"),
    )
    op.create_index("ix_held_outcomes_received", "held_outcomes", ["received"])
    op.create_table(
        "moments",
        sa.Column("experiment", sa.BigInteger, nullable=False),
        sa.Column("day", sa.Integer, nullable=False),
        sa.Column("metric", sa.String(64), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("arm", sa.SmallInteger, nullable=False),
        sa.Column("n", sa.BigInteger, nullable=False),
        sa.Column("mean", sa.Double, nullable=False),
        sa.Column("m2", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("experiment", "day", "metric", "kind", "arm", name="pk_moments"),
    )
    op.create_table(
        "tallies",
        sa.Column("experiment", sa.BigInteger, nullable=False),
        sa.Column("day", sa.Integer, nullable=False),
        sa.Column("arm", sa.SmallInteger, nullable=False),
        sa.Column("exposures", sa.BigInteger, nullable=False),
        sa.Column("outcomes", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("experiment", "day", "arm", name="pk_tallies"),
    )
    kit_tables.create_idempotency()
    kit_tables.create_consumed_events()
