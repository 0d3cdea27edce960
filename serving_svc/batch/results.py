"""The output of a batch prediction, stored in the registry by its content."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from modelyard.registry.v1 import registry_pb2, registry_pb2_grpc

from service_kit.channels import Peers, calling

CHUNK = 1 << 20
LONG_CALL_S = 600.0


class Results:
    """Writes files as artifacts; the same content again is the same artifact."""

    def __init__(self, peers: Peers) -> None:
        self._peers = peers

    def store(self, path: Path) -> str:
        """Store a file; gives `artifacts/{sha256}`. Raises what the registry raises."""
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        stub = registry_pb2_grpc.RegistryServiceStub(self._peers.channel("registry"))
        with calling("registry"):
            return str(stub.WriteArtifact(_messages(path, digest), timeout=LONG_CALL_S).name)


def _messages(path: Path, digest: str) -> Iterator[registry_pb2.WriteArtifactRequest]:
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            yield registry_pb2.WriteArtifactRequest(chunk=chunk, sha256=digest)
            digest = ""
