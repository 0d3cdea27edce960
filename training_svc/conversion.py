"""Conversion of trained models to ONNX; the same model gives the same bytes."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

ONNX_OPSET = 15
GRAPH = "modelyard"
"""Name of every graph: the converters' own are random, and the same model must be the same file."""


class ConversionError(Exception):
    """A model that a converter can't turn into ONNX; the text says why."""


def lightgbm_to_onnx(booster: Any, width: int) -> bytes:
    """Converts a `lightgbm.Booster` of `width` inputs; the graph's input is `inputs`.

    Raises ConversionError.
    """
    from onnxmltools import convert_lightgbm

    try:
        graph = convert_lightgbm(
            booster,
            name=GRAPH,
            initial_types=_floats(width),
            target_opset=ONNX_OPSET,
            zipmap=False,
        )
    except Exception as error:
        raise _refusal("onnxmltools", booster, error) from error
    return canonical(graph)


def xgboost_to_onnx(booster: Any, width: int) -> bytes:
    """Converts an `xgboost.Booster` of `width` inputs without names; raises ConversionError."""
    from onnxmltools import convert_xgboost

    try:
        graph = convert_xgboost(
            booster, name=GRAPH, initial_types=_floats(width), target_opset=ONNX_OPSET
        )
    except Exception as error:
        raise _refusal("onnxmltools", booster, error) from error
    return canonical(graph)


def estimator_to_onnx(estimator: Any, width: int) -> bytes:
    """Converts a scikit-learn estimator of `width` inputs; raises ConversionError."""
    from skl2onnx import to_onnx

    options = {"zipmap": False} if hasattr(estimator, "predict_proba") else None
    try:
        graph = to_onnx(
            estimator,
            np.zeros((1, width), np.float32),
            name=GRAPH,
            options=options,
            target_opset=ONNX_OPSET,
        )
    except Exception as error:
        raise _refusal("skl2onnx", estimator, error) from error
    return canonical(graph)


def source_to_onnx(kind: str, model: Any, width: int) -> bytes:
    """Converts what a model file of `width` inputs holds; raises ConversionError.

    Args:
        kind: Format of the file: `lightgbm`, `xgboost` or `skops`.
        model: The object of its library.
    """
    if kind == "lightgbm":
        return lightgbm_to_onnx(type(model)(model_str=in_float32(model.model_to_string())), width)
    if kind == "xgboost":
        # Whatever its columns were called: the converter takes no other names.
        model.feature_names = [f"f{at}" for at in range(width)]
        return xgboost_to_onnx(model, width)
    return estimator_to_onnx(model, width)


def in_float32(text: str) -> str:
    """Rounds the thresholds of a LightGBM model down to float32, the kind of its inputs.

    No float32 lies between a threshold and the float32 below it, so every row goes where it went
    before. A converter that rounds to the nearest would send rows that lie on it the other way.
    """

    def rounded(line: re.Match[str]) -> str:
        exact = np.array(line[1].split(), np.float64)
        with np.errstate(over="ignore"):  # 1e300 divides what is missing from all the rest
            near = exact.astype(np.float32)
        below = np.where(near > exact, np.nextafter(near, np.float32(-np.inf)), near)
        return "threshold=" + " ".join(repr(float(each)) for each in below)

    # The sizes of the trees in bytes change, and may be left out.
    text = re.sub(r"^tree_sizes=.*\n", "", text, flags=re.MULTILINE)
    return re.sub(r"^threshold=(.*)$", rounded, text, flags=re.MULTILINE)


def canonical(graph: Any) -> bytes:
    """The same bytes for the same graph: converters list the operator sets in any order."""
    sets = sorted(graph.opset_import, key=lambda each: str(each.domain))
    del graph.opset_import[:]
    graph.opset_import.extend(sets)
    serialized: bytes = graph.SerializeToString(deterministic=True)
    return serialized


def _floats(width: int) -> list[tuple[str, Any]]:
    from onnxmltools.convert.common.data_types import FloatTensorType

    return [("inputs", FloatTensorType([None, width]))]


def _refusal(converter: str, model: Any, error: Exception) -> ConversionError:
    kind = type(model).__name__
    return ConversionError(f"{converter} can't convert a {kind}: {type(error).__name__}")
