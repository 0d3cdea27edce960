"""A training service behind a real gRPC server, on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from modelyard.training.v1 import training_pb2_grpc
from pydantic import SecretStr

from service_kit.channels import open_channel
from service_kit.server import ServiceServer
from tests.training_svc.world import World
from training_svc import __main__ as main


@pytest.fixture
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves the drawing out, which takes most of the time of a small run."""
    monkeypatch.setattr("training_svc.plots.evaluation_plots", lambda *_: {})


@pytest.fixture
def world(tmp_path: Path) -> World:
    """The other services, in a folder."""
    return World(tmp_path / "world")


@pytest.fixture
def training(training_channel: grpc.Channel) -> training_pb2_grpc.TrainingServiceStub:
    """A stub of a training service."""
    return training_pb2_grpc.TrainingServiceStub(training_channel)


@pytest.fixture
def training_channel(
    sql_url: str, tmp_path: Path, world: World, no_plots: None, monkeypatch: pytest.MonkeyPatch
) -> Iterator[grpc.Channel]:
    """A channel to a training service that runs in this process, its steps over the world."""
    monkeypatch.setattr("service_kit.durable.engine.QUEUE_POLL_S", 0.1)
    monkeypatch.setattr(main, "make_steps", lambda *_: world.steps)
    monkeypatch.setattr(main, "make_converter", lambda *_: world.converter)
    monkeypatch.setattr(main, "WARM_UP_AFTER", 3600.0)
    settings = main.TrainingSettings(
        service="training",
        home=tmp_path,
        database_url=sql_url,
        service_token=SecretStr("s" * 64),
    )
    application = main.build(settings)
    for each in application.background:
        each.start()
    try:
        with (
            ServiceServer(settings, application.services, application.pings) as server,
            open_channel(server.address, settings) as channel,
        ):
            yield channel
    finally:
        for each in reversed(application.background):
            each.stop()
