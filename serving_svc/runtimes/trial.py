"""A first load in a process of its own: libraries in C++ end theirs on some broken files."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from service_kit.errors import DomainError
from service_kit.sandbox import Limits, SandboxError, run_apart
from serving_svc.runtimes.base import ModelUnusableError, warmed
from serving_svc.runtimes.catalog import make_runtime

LIMITS = Limits(seconds=60.0, file_bytes=0)


def try_out(runtime: str, path: Path, inputs: int, outputs: int, config: Mapping[str, Any]) -> None:
    """Load a model elsewhere, once for each file, runtime and signature on this machine.

    Raises ModelUnusableError when it can't be loaded, or its library ends the process.
    """
    passed = path.with_name(f"{path.name}.{runtime}-{inputs}-{outputs}.ok")
    if passed.is_file():
        return
    request = {
        "runtime": runtime,
        "path": str(path),
        "inputs": inputs,
        "outputs": outputs,
        "config": dict(config),
    }
    with tempfile.TemporaryDirectory(prefix="trial") as folder:
        try:
            # Our whole environment, for a runtime may have to make one for its guest.
            answer = run_apart(f"{__name__}:load", Path(folder), request, LIMITS, env=os.environ)
        except SandboxError as error:
            raise ModelUnusableError(f"the runtime {runtime} can't load it: {error}") from error
    if answer["why"]:
        raise ModelUnusableError(answer["why"])
    passed.touch()


def load(_: Path, request: Mapping[str, Any]) -> dict[str, Any]:
    """Load and warm up a model; why it can't be, or nothing."""
    inputs, outputs = request["inputs"], request["outputs"]
    try:
        made = make_runtime(request["runtime"], request["config"])
        warmed(made.load(Path(request["path"]), inputs, outputs), inputs, outputs)
    except (ModelUnusableError, DomainError) as error:
        return {"why": str(error)}
    return {"why": ""}
