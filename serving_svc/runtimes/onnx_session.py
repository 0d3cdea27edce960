"""ONNX models by ONNX Runtime."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import BaseModel

from serving_svc.runtimes import trees
from serving_svc.runtimes.base import (
    Matrix,
    ModelUnusableError,
    RuntimeConfig,
    Scorer,
    check_width,
    columns,
)

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
_log = logging.getLogger(__name__)


class OnnxConfig(RuntimeConfig):
    """Settings of ONNX Runtime."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` takes the GPU where the replica was given one and this build of the library has it."""
    trees: Literal["auto", "onnxruntime"] = "auto"
    """`auto` compiles a forest of decision trees for the processor that one thread walks it on,
    where that answers as ONNX Runtime does; `onnxruntime` leaves forests to ONNX Runtime."""


class OnnxRuntime:
    """ONNX models on the CPU or on an NVIDIA GPU by ONNX Runtime.

    The answer is the model's last tensor of floats; of a classifier with one output more than the
    signature has (two classes), the first column is left out. Forests of decision trees are
    compiled (`serving_svc.runtimes.trees`).
    """

    Config: ClassVar[type[BaseModel]] = OnnxConfig
    api_version: ClassVar[int] = 1
    capabilities: ClassVar[frozenset[str]] = frozenset({"cpu", "cuda", "format:onnx"})

    def __init__(self, config: OnnxConfig) -> None:
        self._config = config

    def load(self, path: Path, inputs: int, outputs: int) -> Scorer:
        """Load an ONNX file; raises ModelUnusableError."""
        import onnxruntime

        chosen = providers(
            self._config.device,
            onnxruntime.get_available_providers(),
            os.environ.get("CUDA_VISIBLE_DEVICES"),
        )
        if CUDA in chosen:
            onnxruntime.preload_dlls()  # the loader does not look where pip put them
        try:
            session = onnxruntime.InferenceSession(str(path), self._options(), providers=chosen)
        except Exception as error:
            raise ModelUnusableError(f"ONNX Runtime refuses it: {type(error).__name__}") from error
        used = session.get_providers()
        if CUDA in chosen and CUDA not in used:
            self._without_gpu()
        fed = _only_input(session, inputs)
        answer = [_float_output(session)]
        run = _runner(session, used)

        def score(matrix: Matrix) -> Matrix:
            return columns(run(answer, {fed: matrix}, None)[0], outputs)

        alone = used == [CPU] and self._config.threads == 1
        if alone and self._config.trees == "auto":
            return trees.compiled(path, (fed, answer[0]), (inputs, outputs), score) or score
        return score

    def _without_gpu(self) -> None:
        # ONNX Runtime itself only says so on its standard error, and goes on with the CPU.
        why = "ONNX Runtime can't use the GPU: the driver, CUDA or cuDNN is missing"
        if self._config.device == "cuda":
            raise ModelUnusableError(f"a GPU is asked for, and {why}; its log names it")
        _log.warning("%s; the CPU scores", why)

    def _options(self) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._config.threads
        options.inter_op_num_threads = 1
        # Spinning threads would eat the cores that the gateway needs.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        return options


def providers(device: str, built_in: Sequence[str], visible: str | None) -> list[str]:
    """Execution providers to try, in order.

    Args:
        device: `auto`, `cpu` or `cuda`.
        built_in: Providers that this build of the library has.
        visible: `CUDA_VISIBLE_DEVICES`; Ray leaves it empty for a replica without a GPU.

    Raises ModelUnusableError when a GPU is asked for and can't be had.
    """
    has_cuda = CUDA in built_in and visible != ""
    if device == "cuda" and not has_cuda:
        raise ModelUnusableError(
            "a GPU is asked for, and the replica has none"
            if CUDA in built_in
            else "a GPU is asked for, and ONNX Runtime is installed without CUDA (onnxruntime-gpu)"
        )
    return [CUDA, CPU] if has_cuda and device != "cpu" else [CPU]


def _runner(session: Any, chosen: Sequence[str]) -> Any:
    """What runs the session's model.

    On the CPU it is what the session wraps: the wrapper checks names that are checked here once,
    and falls back to other providers, of which the CPU has none.
    """
    return (getattr(session, "_sess", session) if list(chosen) == [CPU] else session).run


def _only_input(session: Any, inputs: int) -> str:
    found = session.get_inputs()
    if len(found) != 1 or found[0].type != "tensor(float)":
        raise ModelUnusableError("the model must have one input, a tensor of floats")
    width = found[0].shape[-1] if found[0].shape else None
    if isinstance(width, int):
        check_width(width, inputs)
    return str(found[0].name)


def _float_output(session: Any) -> str:
    kinds = ("tensor(float)", "tensor(double)")
    names = [out.name for out in session.get_outputs() if out.type in kinds]
    if not names:
        raise ModelUnusableError("the model has no tensor of floats among its outputs")
    return str(names[-1])
