"""The model that every server serves: LightGBM, 100 trees x 30 features, a binary classifier."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

FEATURES, TREES, ROWS = 30, 100, 64
TOLERANCE = 1e-5
"""Largest difference between a served probability and the model's own: float32 arithmetic."""

Matrix = npt.NDArray[np.float32]
Vector = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Model:
    """A trained model as files, with its own answers.

    Attributes:
        native: LightGBM's text format.
        onnx: The same trees as ONNX.
        rows: `ROWS` x `FEATURES`, what is asked.
        expected: Probabilities that LightGBM itself gives for `rows`.
    """

    native: Path
    onnx: Path
    rows: Matrix
    expected: Vector


def make_model(folder: Path, seed: int) -> Model:
    """Trains the model of a seed, or finds the one that was trained before.

    Raises:
        ValueError: The ONNX file answers otherwise than LightGBM.
    """
    import lightgbm

    folder.mkdir(parents=True, exist_ok=True)
    native, onnx = folder / f"model-{seed}.txt", folder / f"model-{seed}.onnx"
    rows = np.random.default_rng(99).normal(size=(ROWS, FEATURES)).astype(np.float32)
    if not onnx.exists():
        _train(native, onnx, seed)
    booster = lightgbm.Booster(model_file=str(native))
    expected = np.asarray(booster.predict(rows, num_threads=1), dtype=np.float64)
    if not np.allclose(_onnx_answers(onnx, rows), expected, rtol=0, atol=TOLERANCE):
        raise ValueError(f"{onnx} answers otherwise than {native}")
    return Model(native, onnx, rows, expected)


def _train(native: Path, onnx: Path, seed: int) -> None:
    import lightgbm
    from onnxmltools import convert_lightgbm
    from onnxmltools.convert.common.data_types import FloatTensorType

    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(5_000, FEATURES)).astype(np.float32)
    logit = rows[:, 0] + rows[:, 1] * rows[:, 2] + rng.normal(size=len(rows))
    settings = {"objective": "binary", "num_leaves": 31, "seed": seed, "verbose": -1}
    data = lightgbm.Dataset(rows, (logit > 0).astype(int))
    booster = lightgbm.train(settings, data, num_boost_round=TREES)
    booster.save_model(native)
    kinds = [("features", FloatTensorType([None, FEATURES]))]
    graph = convert_lightgbm(booster, initial_types=kinds, zipmap=False, target_opset=15)
    onnx.write_bytes(graph.SerializeToString())


def _onnx_answers(path: Path, rows: Matrix) -> Vector:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # of the converter's shapes it would warn each time
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"features": rows})[1][:, 1], dtype=np.float64)
