from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest
from sqlalchemy import Engine, inspect, text

from service_kit.database import migrate, transaction
from service_kit.errors import FailedPrecondition
from service_kit.migrations import schema_differences, version_table
from tests.service_kit.conftest import SAMPLE
from tests.service_kit.sample_svc.storage import Base


def test_migrated_schema_is_the_one_of_the_models(engine: Engine) -> None:
    assert schema_differences(engine, Base.metadata) == []


def test_difference_is_found(engine: Engine) -> None:
    with transaction(engine) as session:
        session.execute(text("ALTER TABLE books DROP COLUMN tags"))
    assert any("tags" in item for item in schema_differences(engine, Base.metadata))


def test_second_run_changes_nothing(engine: Engine) -> None:
    migrate(engine, SAMPLE)
    assert inspect(engine).has_table(version_table(SAMPLE))


def test_newer_database_is_refused(engine: Engine) -> None:
    with transaction(engine) as session:
        session.execute(text(f"UPDATE {version_table(SAMPLE)} SET version_num = '0009'"))
    with pytest.raises(FailedPrecondition) as caught:
        migrate(engine, SAMPLE)
    assert caught.value.reason == "DATABASE_NEWER"


def test_failing_migration_leaves_nothing(sql_engine: Engine) -> None:
    # The second revision cannot make a table that is there already.
    with transaction(sql_engine) as session:
        session.execute(text("CREATE TABLE outbox (a INTEGER)"))
    with pytest.raises(Exception, match="outbox"):
        migrate(sql_engine, SAMPLE)
    assert inspect(sql_engine).get_table_names() == ["outbox"]
    with transaction(sql_engine) as session:
        session.execute(text("DROP TABLE outbox"))
    migrate(sql_engine, SAMPLE)


def test_package_without_migrations_is_a_mistake(sql_engine: Engine) -> None:
    with pytest.raises(ValueError, match="migrations"):
        migrate(sql_engine, "service_kit")


def test_processes_that_start_together_migrate_once(sql_url: str) -> None:
    script = textwrap.dedent("""
        import sys
        from service_kit.database import make_engine, migrate
        engine = make_engine(sys.argv[1])
        sys.stdin.readline()
        migrate(engine, sys.argv[2])
    """)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, sql_url, SAMPLE],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        _, errors = process.communicate(timeout=30)
        assert process.returncode == 0, errors
