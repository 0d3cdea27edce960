"""Model files from the registry, kept by their hash and verified before every load."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path

import grpc
from modelyard.registry.v1 import registry_pb2, registry_pb2_grpc

from service_kit.channels import calling
from service_kit.errors import FailedPrecondition

FETCH_TIMEOUT_S = 120.0
_SHA256 = re.compile(r"[0-9a-f]{64}")
_READ = 1 << 20


def fetch(channel: grpc.Channel, sha256: str, folder: Path) -> Path:
    """The file of that content, from the folder or else from the registry.

    Raises FailedPrecondition (`ARTIFACT_CORRUPT`) when the content has another hash, and what the
    registry raises.
    """
    if _SHA256.fullmatch(sha256) is None:
        raise FailedPrecondition("ARTIFACT_CORRUPT", "the artifact is not named by a sha256")
    kept = folder / sha256
    if kept.is_file():
        if _hash_of(kept) == sha256:
            return kept
        kept.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    request = registry_pb2.ReadArtifactRequest(name=f"artifacts/{sha256}")
    stub = registry_pb2_grpc.RegistryServiceStub(channel)
    with calling("registry"):
        chunks = stub.ReadArtifact(request, timeout=FETCH_TIMEOUT_S)
        _write(kept, sha256, (answer.chunk for answer in chunks))
    return kept


def _write(target: Path, sha256: str, chunks: Iterable[bytes]) -> None:
    digest = hashlib.sha256()
    descriptor, name = tempfile.mkstemp(dir=target.parent)
    scratch = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            for chunk in chunks:
                digest.update(chunk)
                file.write(chunk)
        if digest.hexdigest() != sha256:
            raise FailedPrecondition("ARTIFACT_CORRUPT", "the artifact has another content")
        scratch.replace(target)
    finally:
        scratch.unlink(missing_ok=True)


def _hash_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_READ):
            digest.update(block)
    return digest.hexdigest()
