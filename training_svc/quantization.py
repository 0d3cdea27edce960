"""Dynamic INT8 quantization of ONNX models: weights become 8-bit integers, activations at run time.

After Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-
Only Inference", CVPR 2018, as ONNX Runtime does it.
"""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

from service_kit.errors import FailedPrecondition

WITH_WEIGHTS = frozenset({"Attention", "Conv", "Gather", "Gemm", "LSTM", "MatMul"})
"""Operators whose constant inputs the tool turns into integers."""
TREES = frozenset({"TreeEnsemble", "TreeEnsembleClassifier", "TreeEnsembleRegressor"})


class NothingToQuantizeError(Exception):
    """A model without weights that INT8 would make smaller; the text says why."""


def quantize(model: bytes) -> bytes:
    """Quantizes the weights of an ONNX model, each channel of them on a scale of its own.

    Raises:
        NothingToQuantizeError: It has no weights to quantize, as a tree ensemble has none.
        FailedPrecondition: `MODEL_UNUSABLE` when it is no ONNX model.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    _refuse_without_weights(model)
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "source.onnx"), Path(folder, "target.onnx")
        source.write_bytes(model)
        try:
            # It says with every model that it might be prepared better.
            with _Quiet():
                quantize_dynamic(source, target, weight_type=QuantType.QInt8, per_channel=True)
            made = target.read_bytes()
        except Exception as error:
            raise FailedPrecondition(
                "MODEL_UNUSABLE", f"it can't be quantized: {type(error).__name__}"
            ) from error
    if len(made) >= len(model):
        raise NothingToQuantizeError(
            f"INT8 would make it no smaller: {len(made):,} bytes instead of {len(model):,}"
        )
    return made


def _refuse_without_weights(model: bytes) -> None:
    import onnx

    try:
        kinds = {node.op_type for node in onnx.load_from_string(model).graph.node}
    except Exception as error:
        raise FailedPrecondition("MODEL_UNUSABLE", "it is no ONNX model") from error
    if not kinds & WITH_WEIGHTS:
        what = "a tree ensemble has" if kinds & TREES else "its operators have"
        raise NothingToQuantizeError(f"{what} no weights that INT8 would make smaller")


class _Quiet:
    """Keeps the root logger, which the tool writes to, quiet below errors."""

    def __enter__(self) -> None:
        self._level = logging.root.level
        logging.root.setLevel(logging.ERROR)

    def __exit__(self, *_: object) -> None:
        logging.root.setLevel(self._level)
