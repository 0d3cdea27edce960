"""Scores rows with a model file, by the same runtime plugins that serve it."""

from __future__ import annotations

import hashlib
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from service_kit.errors import FailedPrecondition
from service_kit.plugins import configure, load

RUNTIMES = "modelyard.model_runtimes"
MOST_LOADED = 4

Score: TypeAlias = Callable[[NDArray[np.float32]], NDArray[np.float32]]


class RuntimeScorer:
    """Keeps the last few models loaded; safe to share between threads."""

    def __init__(self) -> None:
        self._loaded: OrderedDict[str, Score] = OrderedDict()
        self._lock = threading.Lock()

    def score(self, runtime: str, model: bytes, inputs: NDArray[np.float32]) -> NDArray[np.float64]:
        """Scores n x inputs rows; gives the first output of each.

        Raises:
            FailedPrecondition: `MODEL_UNUSABLE` when the runtime refuses the model.
        """
        with self._lock:
            scored = self._load(runtime, model, inputs.shape[1])(inputs)
        return np.asarray(scored[:, 0], np.float64)

    def _load(self, runtime: str, model: bytes, width: int) -> Score:
        key = f"{runtime}:{hashlib.sha256(model).hexdigest()}"
        if key not in self._loaded:
            self._loaded[key] = load_model(runtime, model, width)
            if len(self._loaded) > MOST_LOADED:
                self._loaded.popitem(last=False)
        self._loaded.move_to_end(key)
        return self._loaded[key]


def load_model(runtime: str, model: bytes, width: int) -> Score:
    """Loads a model of `width` inputs and one output by a runtime plugin."""
    plugin: Any = configure(load(RUNTIMES, runtime), {})
    with tempfile.NamedTemporaryFile(suffix=f".{runtime}") as file:
        file.write(model)
        file.flush()
        try:
            loaded: Score = plugin.load(Path(file.name), width, 1)
        except Exception as error:
            raise FailedPrecondition(
                "MODEL_UNUSABLE", f"the runtime {runtime} can't load the model"
            ) from error
    return loaded
