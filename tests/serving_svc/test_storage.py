"""The record of serving on both databases."""

from __future__ import annotations

from sqlalchemy import Engine

from service_kit.database import migrate
from service_kit.migrations import schema_differences
from serving_svc.storage import Base


def test_migrations_make_the_tables_of_the_models(sql_engine: Engine) -> None:
    migrate(sql_engine, "serving_svc")
    assert schema_differences(sql_engine, Base.metadata) == []
