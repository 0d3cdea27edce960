"""Endpoints, traffic tables, deployments, rollouts, and the tables of the kit."""

import sqlalchemy as sa
from alembic import op

from service_kit.database import BigKey, JsonColumn, UtcDateTime
from service_kit.kit_tables import create_idempotency, create_outbox

revision = "0001"
down_revision = None


def upgrade() -> None:
    _endpoints()
    _traffic_tables()
    _deployments()
    _rollouts()
    create_idempotency()
    create_outbox()


def _endpoints() -> None:
    op.create_table(
        "endpoints",
        sa.Column("endpoint_id", sa.String(128), nullable=False),
        sa.Column("model", sa.String(300), nullable=False),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("routing_key", sa.String(300), nullable=False),
        sa.Column("outcome_independent", sa.Boolean, nullable=False),
        sa.Column("default_outputs", JsonColumn, nullable=False),
        sa.Column("deadline_ms", sa.BigInteger, nullable=False),
        sa.Column("min_replicas", sa.Integer, nullable=False),
        sa.Column("max_replicas", sa.Integer, nullable=False),
        sa.Column("max_in_flight", sa.Integer, nullable=False),
        sa.Column("generation", sa.BigInteger, nullable=False),
        sa.Column("deploying", sa.String(300), nullable=False),
        sa.Column("deploy_workflow", sa.String(128), nullable=False),
        sa.Column("failure", sa.Text, nullable=False),
        sa.Column("created", UtcDateTime, nullable=False),
        sa.PrimaryKeyConstraint("endpoint_id", name="pk_endpoints"),
    )


def _traffic_tables() -> None:
    op.create_table(
        "traffic_tables",
        sa.Column("endpoint_id", sa.String(128), nullable=False),
        sa.Column("generation", sa.BigInteger, nullable=False, autoincrement=False),
        sa.Column("variants", JsonColumn, nullable=False),
        sa.Column("champion", sa.String(128), nullable=False),
        sa.Column("salt", sa.String(128), nullable=False),
        sa.Column("experiment", sa.String(300), nullable=False),
        sa.Column("overrides", JsonColumn, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("actor", sa.String(300), nullable=False),
        sa.Column("created", UtcDateTime, nullable=False),
        sa.Column("last_good", sa.BigInteger, nullable=False),
        sa.Column("transitional", sa.Boolean, nullable=False),
        sa.PrimaryKeyConstraint("endpoint_id", "generation", name="pk_traffic_tables"),
        sa.ForeignKeyConstraint(
            ["endpoint_id"],
            ["endpoints.endpoint_id"],
            name="fk_traffic_tables_endpoint_id_endpoints",
            ondelete="CASCADE",
        ),
    )


def _deployments() -> None:
    op.create_table(
        "deployments",
        sa.Column("app", sa.String(300), nullable=False),
        sa.Column("endpoint_id", sa.String(128), nullable=False),
        sa.Column("model_version", sa.String(300), nullable=False),
        sa.Column("runtime", sa.String(128), nullable=False),
        sa.Column("artifact", sa.String(128), nullable=False),
        sa.Column("inputs", sa.Integer, nullable=False),
        sa.Column("outputs", sa.Integer, nullable=False),
        sa.Column("signature", sa.LargeBinary, nullable=False),
        sa.Column("replicas", sa.Integer, nullable=False),
        sa.Column("wanted", sa.Boolean, nullable=False),
        sa.Column("failure", sa.Text, nullable=False),
        sa.Column("created", UtcDateTime, nullable=False),
        sa.PrimaryKeyConstraint("app", name="pk_deployments"),
    )
    op.create_index("ix_deployments_endpoint_id", "deployments", ["endpoint_id"])


def _rollouts() -> None:
    op.create_table(
        "rollouts",
        sa.Column("rollout_id", sa.String(128), nullable=False),
        sa.Column("endpoint_id", sa.String(128), nullable=False),
        sa.Column("model_version", sa.String(300), nullable=False),
        sa.Column("champion_version", sa.String(300), nullable=False),
        sa.Column("strategy", JsonColumn, nullable=False),
        sa.Column("created", UtcDateTime, nullable=False),
        sa.Column("actor", sa.String(300), nullable=False),
        sa.Column("base_generation", sa.BigInteger, nullable=False),
        sa.Column("table_generation", sa.BigInteger, nullable=False),
        sa.Column("state", sa.String(32), nullable=False),
        sa.Column("stage", sa.Integer, nullable=False),
        sa.Column("stage_samples", sa.BigInteger, nullable=False),
        sa.Column("weight", sa.Double, nullable=False),
        sa.Column("experiment", sa.String(300), nullable=False),
        sa.Column("paused", sa.Boolean, nullable=False),
        sa.Column("ended", UtcDateTime),
        sa.Column("reason", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("rollout_id", name="pk_rollouts"),
        sa.ForeignKeyConstraint(
            ["endpoint_id"],
            ["endpoints.endpoint_id"],
            name="fk_rollouts_endpoint_id_endpoints",
            ondelete="CASCADE",
        ),
    )
    active = sa.text("ended IS NULL")
    op.create_index(
        "uq_rollouts_active",
        "rollouts",
        ["endpoint_id"],
        unique=True,
        sqlite_where=active,
        postgresql_where=active,
    )
    op.create_index(
        "ix_rollouts_endpoint_id_rollout_id", "rollouts", ["endpoint_id", "rollout_id"]
    )
    op.create_table(
        "rollout_events",
        sa.Column("position", BigKey, nullable=False),
        sa.Column("rollout_id", sa.String(128), nullable=False),
        sa.Column("step", sa.String(128), nullable=False),
        sa.Column("decision", sa.String(128), nullable=False),
        sa.Column("reasons", JsonColumn, nullable=False),
        sa.Column("samples", sa.BigInteger, nullable=False),
        sa.Column("at", UtcDateTime, nullable=False),
        sa.PrimaryKeyConstraint("position", name="pk_rollout_events"),
        sa.ForeignKeyConstraint(
            ["rollout_id"],
            ["rollouts.rollout_id"],
            name="fk_rollout_events_rollout_id_rollouts",
            ondelete="CASCADE",
        ),
    )
    op.create_index("ix_rollout_events_rollout_id", "rollout_events", ["rollout_id"])
