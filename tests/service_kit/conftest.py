"""A service's database for the tests of the kit."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine

from service_kit.database import migrate

SAMPLE = "tests.service_kit.sample_svc"


@pytest.fixture
def engine(sql_engine: Engine) -> Engine:
    """A database with the tables of the sample service."""
    migrate(sql_engine, SAMPLE)
    return sql_engine
