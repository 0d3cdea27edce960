"""MLflow's generic Python models: whatever code they bring, in an environment and process of its
own."""

from __future__ import annotations

import lzma
import re
import stat
import sys
import tempfile
import weakref
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import ClassVar

from pydantic import BaseModel, Field

from serving_svc.runtimes import guest_mlflow
from serving_svc.runtimes.base import Matrix, ModelUnusableError, RuntimeConfig, Scorer, columns
from serving_svc.runtimes.environments import environment
from serving_svc.runtimes.guest import Guest, Limits

DESCRIPTION = "MLmodel"
MOST_FILES = 10_000
#: What zipfile raises for damaged, encrypted and unknown content.
_DAMAGED = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError),
    *(OSError, RuntimeError, NotImplementedError),
)
_PYTHON = re.compile(r"^python:\s*['\"]?(\d+\.\d+)", re.MULTILINE)


class PyfuncConfig(RuntimeConfig):
    """Settings of the guest's process."""

    python: str = ""
    """Interpreter of an environment made beforehand; empty to make one of the model's
    requirements."""
    memory_mib: int = Field(default=4096, ge=64, le=1 << 20)
    """Address space of the process, in MiB."""
    start_s: float = Field(default=60.0, gt=0, le=3600)
    """Seconds to load the model."""
    call_s: float = Field(default=10.0, gt=0, le=600)
    """Seconds to score a batch; a process that takes longer is ended and started again."""
    install_s: float = Field(default=900.0, gt=0, le=7200)
    """Seconds to make its environment."""
    unpacked_mib: int = Field(default=4096, ge=1, le=1 << 20)
    """Size of the unpacked model, in MiB."""


class MlflowPyfuncRuntime:
    """MLflow models of the flavour `python_function`: a zip archive of the model's folder.

    Loading one runs its code, in a process of its own that has the suite's rights on this machine:
    serving loads it only for models that its operator has named.
    """

    Config: ClassVar[type[BaseModel]] = PyfuncConfig
    api_version: ClassVar[int] = 1
    capabilities: ClassVar[frozenset[str]] = frozenset({"cpu", "runs-code", "format:mlflow_pyfunc"})

    def __init__(self, config: PyfuncConfig) -> None:
        self._config = config

    def load(self, path: Path, inputs: int, outputs: int) -> Scorer:  # noqa: ARG002
        """Unpack the archive, have its environment, start its process.

        Raises ModelUnusableError.
        """
        config = self._config
        scratch = tempfile.TemporaryDirectory(prefix="pyfunc", ignore_cleanup_errors=True)
        try:
            model = unpack(path, Path(scratch.name), config.unpacked_mib << 20)
            python = config.python or str(
                environment(requirements_of(model), path.parent / "environments", config.install_s)
            )
            limits = Limits(config.start_s, config.call_s, config.memory_mib << 20)
            program = str(Path(guest_mlflow.__file__))
            guest = Guest([python, "-I", program, str(model)], scratch.name, limits)
            guest.start()
        except BaseException:
            scratch.cleanup()
            raise
        return _Asking(guest, scratch, outputs)


class _Asking:
    """A scorer that holds its guest, which ends with it."""

    def __init__(
        self, guest: Guest, scratch: tempfile.TemporaryDirectory[str], outputs: int
    ) -> None:
        self.guest = guest
        self._outputs = outputs
        self._scratch = scratch
        weakref.finalize(self, guest.stop)

    def __call__(self, matrix: Matrix) -> Matrix:
        return columns(self.guest.ask(matrix), self._outputs)


def unpack(archive: Path, folder: Path, most_bytes: int) -> Path:
    """Unpack a model's archive; gives the folder with its description, at most one below.

    Args:
        archive: A zip archive.
        folder: Where to; what was unpacked before a refusal stays there.
        most_bytes: Most bytes of all files together, unpacked.

    Raises ModelUnusableError for what is no archive or damaged, for links, paths that lead
    outside, more than is allowed, and a folder without a description.
    """
    try:
        with zipfile.ZipFile(archive) as file:
            _check_members(file.infolist(), most_bytes)
            file.extractall(folder)
    except _DAMAGED as error:
        raise ModelUnusableError("it is no zip archive of an MLflow model") from error
    found = [folder, *sorted(each for each in folder.iterdir() if each.is_dir())]
    for place in found:
        if (place / DESCRIPTION).is_file():
            return place
    raise ModelUnusableError(f"the archive has no {DESCRIPTION}")


def requirements_of(model: Path) -> str:
    """What a model's environment needs; raises ModelUnusableError when it can't be had here."""
    stated = model / "python_env.yaml"
    python = _PYTHON.search(stated.read_text()) if stated.is_file() else None
    ours = f"{sys.version_info.major}.{sys.version_info.minor}"
    if python is not None and python[1] != ours:
        raise ModelUnusableError(f"it needs Python {python[1]} and this is {ours}")
    listed = model / "requirements.txt"
    if not listed.is_file():
        raise ModelUnusableError("the archive has no requirements.txt")
    return listed.read_text()


def _check_members(members: list[zipfile.ZipInfo], most_bytes: int) -> None:
    if len(members) > MOST_FILES or sum(each.file_size for each in members) > most_bytes:
        raise ModelUnusableError("the archive is larger than is allowed")
    for each in members:
        path = PurePosixPath(each.filename.replace("\\", "/"))
        outside = path.is_absolute() or ".." in path.parts
        if outside or stat.S_ISLNK(each.external_attr >> 16):
            raise ModelUnusableError("the archive has a path that leads outside of it")
