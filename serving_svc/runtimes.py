"""Runtimes: plugins that load a model file and score matrices with it.

Plugins of the group `modelyard.model_runtimes` have, beside what every plugin has, a method
`load(path, inputs, outputs)` that gives a scorer. Only formats that run no code when they are
loaded belong here.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from service_kit import plugins

GROUP = "modelyard.model_runtimes"

Matrix = npt.NDArray[np.float32]
#: float32, rows x inputs, to float32, rows x outputs; called from one thread at a time.
Scorer = Callable[[Matrix], Matrix]


class ModelUnusableError(Exception):
    """A model file that this runtime can't serve; the text says why."""


class ModelRuntime(Protocol):
    """What a runtime plugin does."""

    def load(self, path: Path, inputs: int, outputs: int) -> Scorer:
        """Load a model file.

        Args:
            path: The file; its content was verified.
            inputs: Columns of the input matrix.
            outputs: Columns of the output matrix.

        Raises ModelUnusableError when the file does not hold such a model.
        """
        ...


class RuntimeConfig(BaseModel):
    """Settings of the built-in runtimes."""

    model_config = ConfigDict(extra="forbid")

    threads: int = Field(default=1, ge=1, le=256)
    """Threads that score one batch."""


class OnnxRuntime:
    """ONNX models on the CPU by ONNX Runtime.

    The answer is the model's last tensor of floats; of a classifier with one output more than the
    signature has (two classes), the first column is left out.
    """

    Config: ClassVar[type[BaseModel]] = RuntimeConfig
    api_version: ClassVar[int] = 1
    capabilities: ClassVar[frozenset[str]] = frozenset({"cpu"})

    def __init__(self, config: RuntimeConfig) -> None:
        self._threads = config.threads

    def load(self, path: Path, inputs: int, outputs: int) -> Scorer:
        """Load an ONNX file; raises ModelUnusableError."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        # Spinning threads would eat the cores that the gateway needs.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise ModelUnusableError(f"ONNX Runtime refuses it: {type(error).__name__}") from error
        fed = _only_input(session, inputs)
        answer = _float_output(session)

        def score(matrix: Matrix) -> Matrix:
            result = np.asarray(session.run([answer], {fed: matrix})[0], dtype=np.float32)
            return _columns(result, outputs)

        return score


class LightGbmRuntime:
    """LightGBM's own text format, scored by its native library."""

    Config: ClassVar[type[BaseModel]] = RuntimeConfig
    api_version: ClassVar[int] = 1
    capabilities: ClassVar[frozenset[str]] = frozenset({"cpu"})

    def __init__(self, config: RuntimeConfig) -> None:
        self._threads = config.threads

    def load(self, path: Path, inputs: int, outputs: int) -> Scorer:
        """Load a model file; raises ModelUnusableError."""
        import lightgbm

        try:
            booster = lightgbm.Booster(model_file=str(path))
        except lightgbm.basic.LightGBMError as error:
            raise ModelUnusableError("LightGBM refuses it") from error
        if booster.num_feature() != inputs:
            raise ModelUnusableError(
                f"the model has {booster.num_feature()} inputs, its signature {inputs}"
            )
        threads = self._threads

        def score(matrix: Matrix) -> Matrix:
            result = booster.predict(matrix, num_threads=threads)
            return _columns(np.asarray(result, dtype=np.float32), outputs)

        return score


_BUILT_IN: dict[str, type[Any]] = {"onnx": OnnxRuntime, "lightgbm": LightGbmRuntime}


def make_runtime(name: str) -> ModelRuntime:
    """A runtime by its name, with its default settings.

    Raises NotFound (`PLUGIN_NOT_FOUND`) or FailedPrecondition (`PLUGIN_BROKEN`).
    """
    found = _BUILT_IN.get(name) or plugins.load(GROUP, name)
    runtime: ModelRuntime = plugins.configure(found, {})
    return runtime


def warmed(scorer: Scorer, inputs: int, outputs: int) -> Scorer:
    """The scorer, after it has scored blank rows; raises ModelUnusableError when it can't."""
    for rows in (1, 64, 1):
        try:
            result = scorer(np.zeros((rows, inputs), dtype=np.float32))
        except ModelUnusableError:
            raise
        except Exception as error:
            raise ModelUnusableError(f"can't score: {type(error).__name__}") from error
        if result.shape != (rows, outputs):
            raise ModelUnusableError(f"gives {result.shape} for {rows} rows x {outputs} outputs")
    return scorer


def _only_input(session: Any, inputs: int) -> str:
    found = session.get_inputs()
    if len(found) != 1 or found[0].type != "tensor(float)":
        raise ModelUnusableError("the model must have one input, a tensor of floats")
    width = found[0].shape[-1]
    if isinstance(width, int) and width != inputs:
        raise ModelUnusableError(f"the model has {width} inputs, its signature {inputs}")
    return str(found[0].name)


def _float_output(session: Any) -> str:
    kinds = ("tensor(float)", "tensor(double)")
    names = [out.name for out in session.get_outputs() if out.type in kinds]
    if not names:
        raise ModelUnusableError("the model has no tensor of floats among its outputs")
    return str(names[-1])


def _columns(result: Matrix, outputs: int) -> Matrix:
    table = result.reshape(len(result), -1)
    if table.shape[1] == outputs + 1:
        table = table[:, 1:]
    if table.shape[1] != outputs:
        raise ModelUnusableError(f"the model has {table.shape[1]} outputs, its signature {outputs}")
    return np.ascontiguousarray(table)
