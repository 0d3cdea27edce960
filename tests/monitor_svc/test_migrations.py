"""Migrations of databases that have rows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Engine, insert, select, text

import monitor_svc
from monitor_svc.storage.tables import outcomes
from service_kit.database import migrate, migration_engine, transaction
from service_kit.migrations import version_table


def as_of(engine: Engine, revision: str) -> None:
    """Migrate to an older revision."""
    config = Config()
    (folder,) = monitor_svc.__path__
    config.set_main_option("script_location", str(Path(folder) / "migrations"))
    config.attributes["version_table"] = version_table("monitor_svc")
    changer = migration_engine(engine)
    with changer.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
    changer.dispose()


def test_outcomes_of_before_count_as_arrived_at_the_migration(sql_engine: Engine) -> None:
    as_of(sql_engine, "0002")
    row = "('label', 'p', 1.0, 0)"
    with transaction(sql_engine) as session:
        columns = "metric, prediction_id, value, event_us"
        session.execute(text(f"INSERT INTO outcomes ({columns}) VALUES {row}"))
    before = datetime.now(UTC)
    migrate(sql_engine, "monitor_svc")
    with transaction(sql_engine) as session:
        (arrived,) = session.scalars(select(outcomes.c.arrived))
        assert before <= arrived <= before + timedelta(minutes=5)
        # A process of the older release, which knows nothing of arrivals, can still write.
        session.execute(
            insert(outcomes).values(metric="label", prediction_id="q", value=1.0, event_us=0)
        )
