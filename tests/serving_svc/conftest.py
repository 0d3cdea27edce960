"""Fixtures of serving."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from service_kit.database import make_engine, migrate
from serving_svc.service import stream_scoring
from tests.serving_svc.scoring_stream import Stream
from tests.serving_svc.world import World


@pytest.fixture(scope="session")
def empty_record(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated database with nothing in it, to be copied."""
    path = tmp_path_factory.mktemp("serving") / "serving.db"
    engine = make_engine(f"sqlite:///{path}")
    migrate(engine, "serving_svc")
    engine.dispose()
    return path


@pytest.fixture
def world(tmp_path: Path, empty_record: Path) -> Iterator[World]:
    """Serving with fakes around it."""
    shutil.copy(empty_record, tmp_path / "serving.db")
    engine = make_engine(f"sqlite:///{tmp_path}/serving.db")
    yield World(engine)
    engine.dispose()


@pytest.fixture(params=["redis", "valkey"])
def stream(
    request: pytest.FixtureRequest, stream_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Stream]:
    monkeypatch.setattr(stream_scoring, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(stream_scoring, "LONGEST_PAUSE_S", 0.05)
    made = Stream(request.getfixturevalue(f"{request.param}_url"), stream_prefix)
    yield made
    made.close()
