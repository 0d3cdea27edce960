"""Scores rows with a model file, by the same runtime plugins that serve it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service_kit.errors import FailedPrecondition
from service_kit.plugins import configure, load
from training_svc.ports import Score

RUNTIMES = "modelyard.model_runtimes"


def load_model(runtime: str, model: bytes, width: int) -> Score:
    """Loads a model of `width` inputs by a runtime plugin; it gives its first output.

    Raises:
        FailedPrecondition: `MODEL_UNUSABLE` when the runtime refuses the model.
    """
    plugin: Any = configure(load(RUNTIMES, runtime), {})
    with tempfile.NamedTemporaryFile(suffix=f".{runtime}") as file:
        file.write(model)
        file.flush()
        try:
            loaded = plugin.load(Path(file.name), width, 1)
        except Exception as error:
            raise FailedPrecondition(
                "MODEL_UNUSABLE", f"the runtime {runtime} can't load the model"
            ) from error

    def score(inputs: NDArray[np.float32]) -> NDArray[np.float64]:
        return np.asarray(loaded(inputs)[:, 0], np.float64)

    return score
