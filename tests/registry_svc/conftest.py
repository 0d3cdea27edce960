"""A registry behind a real gRPC server, on SQLite and on PostgreSQL."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from modelyard.registry.v1 import registry_pb2 as pb
from modelyard.registry.v1 import registry_pb2_grpc
from pydantic import SecretStr

from registry_svc.__main__ import build
from service_kit.channels import open_channel
from service_kit.server import ServiceServer
from service_kit.settings import ServiceSettings


@pytest.fixture
def registry(
    sql_url: str, redis_url: str, tmp_path: Path
) -> Iterator[registry_pb2_grpc.RegistryServiceStub]:
    """A stub of a registry that runs in this process."""
    settings = ServiceSettings(
        service="registry",
        home=tmp_path,
        database_url=sql_url,
        redis_url=redis_url,
        stream_prefix=f"registry-{tmp_path.name}",
        service_token=SecretStr("s" * 64),
    )
    application = build(settings)
    with (
        ServiceServer(settings, application.services, application.pings) as server,
        open_channel(server.address, settings) as channel,
    ):
        yield registry_pb2_grpc.RegistryServiceStub(channel)


@pytest.fixture
def write(registry: registry_pb2_grpc.RegistryServiceStub) -> Callable[[bytes], str]:
    """Writes an artifact and gives its name."""

    def write_artifact(content: bytes) -> str:
        digest = hashlib.sha256(content).hexdigest()
        halves = [content[: len(content) // 2], content[len(content) // 2 :]]
        messages = [
            pb.WriteArtifactRequest(chunk=half, sha256="" if at else digest)
            for at, half in enumerate(halves)
        ]
        return str(registry.WriteArtifact(iter(messages)).name)

    return write_artifact
