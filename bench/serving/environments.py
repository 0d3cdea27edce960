"""A virtual environment for each peer, with pinned versions."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.serving.processes import StartError

CONSTRAINTS = Path(__file__).with_name("constraints")
"""A file of pinned versions for each environment; the peers need different ones of the same."""
_STAMP = "bench.stamp"


def ensure(folder: Path, requirements: Sequence[str]) -> Path:
    """Makes an environment unless it is there; gives its Python.

    Raises:
        StartError: A distribution can't be installed.
    """
    python = folder / "bin" / "python"
    stamp = folder / _STAMP
    pinned = CONSTRAINTS / f"{folder.name}.txt"
    # An environment knows its own path: a copy elsewhere is none.
    content = "\n".join((str(folder.absolute()), *requirements, pinned.read_text()))
    digest = hashlib.sha256(content.encode()).hexdigest()
    if not (python.exists() and stamp.exists() and stamp.read_text() == digest):
        uv = Path(sys.executable).with_name("uv")
        _run(str(uv), "venv", "--quiet", "--clear", "--python", sys.executable, str(folder))
        pins = ("-c", str(pinned))
        install = (str(uv), "pip", "install", "--quiet", "--compile-bytecode")
        _run(*install, "--python", str(python), *pins, *requirements)
        stamp.write_text(digest)
    return python


def installed(folder: Path, names: Sequence[str]) -> Mapping[str, str]:
    """Versions of distributions in an environment; those that are absent are left out."""
    found = {}
    for path in sorted(folder.glob("lib/python*/site-packages/*.dist-info")):
        name, _, version = path.name.removesuffix(".dist-info").rpartition("-")
        found[re.sub(r"[-_.]+", "-", name).lower()] = version
    return {name: found[name] for name in names if name in found}


def _run(*command: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=540)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise StartError(f"{command[0]}: {error}") from error
    if done.returncode:
        raise StartError(done.stderr.strip()[-400:])
