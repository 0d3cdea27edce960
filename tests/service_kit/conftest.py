"""A service's database for the tests of the kit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Engine

from service_kit.database import make_engine, migrate
from service_kit.streams import EventStreams, StreamConsumer
from tests.service_kit.sample_svc.storage import CONSUMED
from tests.service_kit.streaming import MakeConsumer

SAMPLE = "tests.service_kit.sample_svc"


@pytest.fixture
def engine(sql_engine: Engine) -> Engine:
    """A database with the tables of the sample service."""
    migrate(sql_engine, SAMPLE)
    return sql_engine


@pytest.fixture(params=["redis", "valkey"])
def streams(request: pytest.FixtureRequest, stream_prefix: str) -> Iterator[EventStreams]:
    opened = EventStreams(request.getfixturevalue(f"{request.param}_url"), stream_prefix)
    yield opened
    opened.close()


@pytest.fixture
def sqlite_engine(tmp_path: Any) -> Iterator[Engine]:
    engine = make_engine(f"sqlite:///{tmp_path}/test.db")
    migrate(engine, SAMPLE)
    yield engine
    engine.dispose()


@pytest.fixture
def consumer(sqlite_engine: Engine, streams: EventStreams) -> Iterator[MakeConsumer]:
    made: list[StreamConsumer] = []

    def make(handle: Any, engine: Engine = sqlite_engine, **options: Any) -> StreamConsumer:
        options = {"retry_after": 0.0} | options
        made.append(StreamConsumer(engine, CONSUMED, streams, "g", "s", handle, **options))
        return made[-1]

    yield make
    for item in made:
        item.stop()
