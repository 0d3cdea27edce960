"""Virtual environments made of a list of requirements, each made once."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement

from serving_svc.runtimes.base import ModelUnusableError

MOST_REQUIREMENTS = 500
#: Marks an environment that was made to its end.
READY = ".ready"


def environment(requirements: str, folder: Path, timeout: float) -> Path:
    """The interpreter of an environment that has what is required.

    Args:
        requirements: Lines of names and versions; no options, addresses or paths.
        folder: Where environments are kept, by what is in them.
        timeout: Seconds to make one.

    Raises ModelUnusableError when a line is refused, or the environment can't be made.
    """
    wanted = sorted(names_and_versions(requirements.splitlines()))
    key = hashlib.sha256("\n".join([sys.version, *wanted]).encode()).hexdigest()[:32]
    place = folder / key
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder / f"{key}.lock"):
        if not (place / READY).is_file():
            shutil.rmtree(place, ignore_errors=True)
            _make(place, wanted, timeout)
            (place / READY).touch()
    return place / "bin" / "python"


def names_and_versions(lines: Iterable[str]) -> list[str]:
    """Requirements in their canonical form; raises ModelUnusableError for anything else."""
    found = []
    for line in lines:
        text = line.partition("#")[0].strip()
        if not text:
            continue
        try:
            requirement = Requirement(text)
        except InvalidRequirement as error:
            raise ModelUnusableError("a line of its requirements is no name and version") from error
        if requirement.url is not None:
            raise ModelUnusableError(f"its requirement {requirement.name} is an address")
        found.append(str(requirement))
    if len(found) > MOST_REQUIREMENTS:
        raise ModelUnusableError(f"it has over {MOST_REQUIREMENTS} requirements")
    return found


def _make(place: Path, wanted: list[str], timeout: float) -> None:
    venv.create(place, with_pip=bool(wanted), symlinks=True)
    if not wanted:
        return
    # Wheels alone: building a distribution would run its code outside the model's own process.
    command = [
        *(str(place / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-input"),
        *("--disable-pip-version-check", "--only-binary", ":all:", *wanted),
    ]
    passed = {name: value for name, value in os.environ.items() if "MODELYARD" not in name}
    try:
        subprocess.run(command, check=True, timeout=timeout, capture_output=True, env=passed)  # noqa: S603
    except subprocess.TimeoutExpired as error:
        raise ModelUnusableError(f"its environment took over {timeout:g} s to make") from error
    except subprocess.CalledProcessError as error:
        lines = error.stderr.decode(errors="replace").strip().splitlines()
        why = lines[-1][:300] if lines else "pip failed"
        raise ModelUnusableError(f"its environment can't be made: {why}") from error


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Replicas on one machine make an environment one after the other."""
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
