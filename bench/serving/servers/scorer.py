"""The model by ONNX Runtime, as the peers that have no LightGBM runtime of their own use it.

Imported by the peers' programs from their own folder, so it needs numpy and onnxruntime alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnxruntime

Score = Callable[[Any], Any]


def load() -> Score:
    """Gives a function from rows x features to probabilities, on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        os.environ["BENCH_ONNX"], options, providers=["CPUExecutionProvider"]
    )

    def score(rows: Any) -> Any:
        return session.run(["probabilities"], {"features": rows})[0][:, 1]

    return score


def matrix(shape: Sequence[int], data: Sequence[float]) -> Any:
    """A tensor's data as float32 rows."""
    return np.asarray(data, dtype=np.float32).reshape(shape)


def v2_answer(values: Any) -> dict[str, Any]:
    """An Open Inference Protocol answer."""
    output = {
        "name": "score",
        "datatype": "FP32",
        "shape": [len(values)],
        "data": values.tolist(),
    }
    return {"model_name": "bench", "outputs": [output]}
