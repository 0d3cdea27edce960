"""Secrets of the gateway in `{home}/keys`."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

ADMIN_KEY = "admin.key"
_HMAC_KEY = "api-keys.secret"


def read_hmac_secret(home: Path) -> bytes:
    """The secret behind the digests of API keys, made at the first call (0600)."""
    path = home / "keys" / _HMAC_KEY
    if not path.is_file():
        create_secret(path, secrets.token_hex(32))
    return bytes.fromhex(path.read_text().strip())


def create_secret(path: Path, text: str) -> bool:
    """Write a file that only its owner reads; returns False when there is one already."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    scratch = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(f"{text}\n")
            file.flush()
            os.fsync(file.fileno())
        # A link fails when the name is taken, so of two that start at once one wins.
        os.link(scratch, path)
    except FileExistsError:
        return False
    finally:
        scratch.unlink()
    return True
