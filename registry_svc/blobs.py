"""Content-addressed files below the suite's home."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from service_kit.errors import Internal, NotFound, ResourceExhausted

CHUNK = 1 << 20
MAX_BYTES = 4 << 30


class FileBlobs:
    """Stores each content once, under its hash; a file appears whole or not at all."""

    def __init__(self, root: Path, max_bytes: int = MAX_BYTES) -> None:
        self._root = root
        self._max_bytes = max_bytes
        root.mkdir(parents=True, exist_ok=True, mode=0o700)

    def write(self, chunks: Iterable[bytes]) -> tuple[str, int]:
        """Stores content; returns its sha256 in hex and its size in bytes."""
        digest, size = hashlib.sha256(), 0
        handle, scratch = tempfile.mkstemp(dir=self._root, prefix=".incoming-")
        try:
            with os.fdopen(handle, "wb") as file:
                for chunk in chunks:
                    size += len(chunk)
                    if size > self._max_bytes:
                        raise ResourceExhausted("ARTIFACT_TOO_LARGE", "too large", field="chunk")
                    digest.update(chunk)
                    file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
            target = self._path(digest.hexdigest())
            target.parent.mkdir(exist_ok=True)
            Path(scratch).replace(target)
        finally:
            Path(scratch).unlink(missing_ok=True)
        return digest.hexdigest(), size

    def read(self, sha256: str) -> Iterator[bytes]:
        """Reads content in chunks of 1 MiB.

        Raises:
            NotFound: There is no such content.
            Internal: The content no longer has its hash; raised after the last chunk.
        """
        path = self._path(sha256)
        if not path.is_file():
            raise NotFound("ARTIFACT_NOT_FOUND", "no such artifact", field="name")
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
                yield chunk
        if digest.hexdigest() != sha256:
            raise Internal("ARTIFACT_CORRUPT", "the stored artifact was damaged")

    def _path(self, sha256: str) -> Path:
        return self._root / sha256[:2] / sha256
