"""Writes `.env` with a random password for everything in compose.yaml that has one.

Run as `python3 deploy/make_env.py`; what is there already stays as it is.
"""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path

DATABASES = (
    "registry",
    "features",
    "training",
    "serving",
    "monitoring",
    "experiments",
    "gateway",
    "mlflow",
)
NAMES = (
    "POSTGRES_PASSWORD",
    "VALKEY_PASSWORD",
    *(f"{name.upper()}_DB_PASSWORD" for name in DATABASES),
)


def complete(path: Path) -> list[str]:
    """Add what is missing to a file (0600); returns the names that were added."""
    lines = path.read_text().splitlines() if path.exists() else []
    present = {line.partition("=")[0].strip() for line in lines}
    missing = [name for name in NAMES if name not in present]
    if missing:
        # Hexadecimal digits need no quoting in a URL, a shell or SQL.
        lines += [f"{name}={secrets.token_hex(24)}" for name in missing]
        scratch = path.with_name(f".{path.name.lstrip('.')}.new")
        scratch.unlink(missing_ok=True)
        descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write("\n".join(lines) + "\n")
        scratch.replace(path)
    return missing


if __name__ == "__main__":
    added = complete(Path(__file__).resolve().parents[1] / ".env")
    sys.stdout.write(f"{len(added)} passwords added to .env\n")
