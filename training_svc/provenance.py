"""Which code and which environment a run used."""

from __future__ import annotations

import hashlib
import subprocess
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path

TIMEOUT = 5.0


@dataclass(frozen=True, slots=True)
class Provenance:
    """Code and environment.

    Attributes:
        code_commit: Git commit, with `-dirty` when files were changed; the distribution's version
            where there is no repository.
        environment_hash: Hash of the names and versions of all installed distributions.
    """

    code_commit: str
    environment_hash: str


@cache
def provenance(folder: Path) -> Provenance:
    """Finds out code and environment of this process, once.

    Args:
        folder: A folder of the code.
    """
    return Provenance(_commit(folder), _environment_hash())


def _commit(folder: Path) -> str:
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return f"modelyard-{metadata.version('modelyard')}"
    return f"{commit}-dirty" if changed else commit


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(  # noqa: S603
        ["git", *arguments],  # noqa: S607
        cwd=folder,
        check=True,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    return done.stdout.strip()


def _environment_hash() -> str:
    names = sorted(
        f"{each.metadata['Name']}=={each.version}".lower() for each in metadata.distributions()
    )
    return hashlib.sha256("\n".join(names).encode()).hexdigest()
