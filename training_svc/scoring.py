"""Scores rows with a model file, by the same runtime plugins that serve it."""

from __future__ import annotations

import hashlib
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service_kit.errors import FailedPrecondition
from service_kit.plugins import configure, load
from service_kit.sandbox import Limits, SandboxError, run_apart
from training_svc.ports import Score

RUNTIMES = "modelyard.model_runtimes"
RUNS_CODE = "runs-code"
MOST_TEXT = 200
MOST_TRIED = 1_000


def load_model(runtime: str, model: bytes, width: int, outputs: int = 1) -> Score:
    """Loads a model of `width` inputs by a runtime plugin.

    Only for files that this suite has made itself, or in a process that may end: libraries in C++
    end theirs on some broken files.

    Args:
        runtime: Name of the plugin.
        model: Content of the file.
        width: Number of inputs.
        outputs: Number of outputs; of more than one, scores are n x outputs.

    Raises:
        FailedPrecondition: `MODEL_UNUSABLE` when the runtime refuses the model,
            `MODEL_CODE_NOT_ALLOWED` when it runs code that the model brings along.
    """
    plugin: Any = configure(_without_code(runtime), {})
    with tempfile.NamedTemporaryFile(suffix=f".{runtime}") as file:
        file.write(model)
        file.flush()
        try:
            loaded = plugin.load(Path(file.name), width, outputs)
        except Exception as error:
            raise _unusable(runtime, error) from error

    def score(inputs: NDArray[np.float32]) -> NDArray[np.float64]:
        found = np.asarray(loaded(inputs), np.float64)
        return found[:, 0] if outputs == 1 else found

    return score


def read_source(runtime: str, path: Path) -> Any:
    """The model in a file as an object of its own library, for converters.

    Raises:
        FailedPrecondition: `MODEL_UNUSABLE`.
    """
    plugin: Any = configure(_without_code(runtime), {})
    try:
        return plugin.read(path)
    except Exception as error:
        raise _unusable(runtime, error) from error


def _without_code(runtime: str) -> type[Any]:
    plugin: type[Any] = load(RUNTIMES, runtime)
    if RUNS_CODE in getattr(plugin, "capabilities", ()):
        raise FailedPrecondition(
            "MODEL_CODE_NOT_ALLOWED",
            f"the runtime {runtime} runs code that the model brings along (pickle), and training "
            "runs none",
        )
    return plugin


def _unusable(runtime: str, error: Exception) -> FailedPrecondition:
    why = (str(error).strip().splitlines() or [type(error).__name__])[0][:MOST_TEXT]
    return FailedPrecondition(
        "MODEL_UNUSABLE", f"the runtime {runtime} can't load the model: {why}"
    )


class StoredModels:
    """Loads files that anybody may have registered; each is tried first where it may end a process.

    Args:
        limits: What trying one may take.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._lock = threading.Lock()
        self._tried: set[tuple[str, str, int]] = set()

    def __call__(self, runtime: str, model: bytes, width: int) -> Score:
        """Loads a model of `width` inputs and one output.

        Raises:
            FailedPrecondition: As `load_model`; `MODEL_UNUSABLE` also when its library ended the
                process.
        """
        key = (runtime, hashlib.sha256(model).hexdigest(), width)
        if key not in self._tried:
            self._try_out(runtime, model, width)
            with self._lock:
                if len(self._tried) >= MOST_TRIED:
                    self._tried.clear()
                self._tried.add(key)
        return load_model(runtime, model, width)

    def _try_out(self, runtime: str, model: bytes, width: int) -> None:
        request = {"runtime": runtime, "width": width}
        with tempfile.TemporaryDirectory(prefix="trial") as name:
            folder = Path(name)
            (folder / "model").write_bytes(model)
            try:
                run_apart(f"{__name__}:score_blank_rows", folder, request, self._limits)
            except SandboxError as error:
                raise FailedPrecondition(
                    "MODEL_UNUSABLE", f"the runtime {runtime} can't load the model: {error}"
                ) from error


def score_blank_rows(folder: Path, request: Mapping[str, Any]) -> dict[str, Any]:
    """The child's side of a trial; raises FailedPrecondition."""
    score = load_model(request["runtime"], (folder / "model").read_bytes(), request["width"])
    score(np.zeros((2, request["width"]), np.float32))
    return {}
