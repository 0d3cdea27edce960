"""A feature service behind a real gRPC server, on SQLite and on PostgreSQL."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from modelyard.features.v1 import features_pb2_grpc
from pydantic import SecretStr

from feature_svc.__main__ import build
from feature_svc.online_store import RedisOnlineStore
from feature_svc.settings import FeatureSettings
from service_kit.channels import open_channel
from service_kit.server import ServiceServer


@pytest.fixture
def project(redis_url: str) -> Iterator[str]:
    """A Feast project of one test, whose rows are deleted afterwards."""
    name = f"test_{secrets.token_hex(6)}"
    yield name
    with redis.Redis.from_url(redis_url) as client:
        for pattern in (f"*{name}", f"{name}:*"):
            for key in client.scan_iter(match=pattern, count=10_000):
                client.delete(key)


@pytest.fixture
def online(redis_url: str, project: str) -> Iterator[RedisOnlineStore]:
    """An online store."""
    store = RedisOnlineStore(redis_url, project)
    yield store
    store.close()


@pytest.fixture
def settings(sql_url: str, redis_url: str, project: str, tmp_path: Path) -> FeatureSettings:
    """Settings of a feature service."""
    return FeatureSettings(
        service="features",
        home=tmp_path,
        database_url=sql_url,
        redis_url=redis_url,
        stream_prefix=project,
        service_token=SecretStr("s" * 64),
    )


@pytest.fixture
def features(settings: FeatureSettings) -> Iterator[features_pb2_grpc.FeatureServiceStub]:
    """A stub of a feature service that runs in this process."""
    application = build(settings)
    with (
        ServiceServer(settings, application.services, application.pings) as server,
        open_channel(server.address, settings) as channel,
    ):
        yield features_pb2_grpc.FeatureServiceStub(channel)
