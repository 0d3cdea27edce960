"""GPUs of an endpoint's replicas."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.add_column("endpoints", sa.Column("replica_gpus", sa.Double))
    op.add_column("deployments", sa.Column("gpus", sa.Double))
