"""Built-in trainers, as plugins of the group `modelyard.trainers`.

A trainer fits a model to a matrix and exports it in a safe format that a runtime plugin loads. It
runs in a Ray worker: it imports what it needs when it is called.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

ONNX_OPSET = 15
GRAPH = "modelyard"
"""Name of every graph: the converters' own are random, and the same model must be the same file."""

PARITY_ROWS = 10_000
"""Rows on which the exported model is compared with its source."""


@dataclass(frozen=True)
class Fitted:
    """A trained model, exported.

    Attributes:
        runtime: Runtime plugin that loads `model`.
        model: The file that serves.
        model_format: Its format.
        files: Further files by name with format and content, the native model among them.
        importance: Importance of each input, in order; empty when the model has none.
        predictions: Scores of the first `PARITY_ROWS` rows by the model as it was trained.
        native: Format of one of `files` that the runtime of the same name serves as well; empty
            when there is none.
        curves: Metric by iteration, where the trainer has one.
    """

    runtime: str
    model: bytes
    model_format: str
    files: Mapping[str, tuple[str, bytes]]
    importance: Sequence[float]
    predictions: NDArray[np.float64]
    native: str = ""
    curves: Mapping[str, Sequence[float]] = field(default_factory=dict)


class Trainer:
    """What all trainers have in common."""

    api_version: ClassVar[int] = 1
    capabilities: ClassVar[frozenset[str]] = frozenset()

    def fit(
        self,
        inputs: NDArray[np.float32],
        labels: NDArray[np.float64],
        names: Sequence[str],
        seed: int,
        threads: int,
    ) -> Fitted:
        """Trains on n x inputs rows with n labels (0 or 1)."""
        raise NotImplementedError


class _Config(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class LightGBM(Trainer):
    """Gradient boosted trees (Ke et al., NeurIPS 2017), exported to ONNX."""

    class Config(_Config):
        """Hyperparameters, named as LightGBM names them."""

        num_iterations: int = Field(default=200, ge=1, le=10_000)
        num_leaves: int = Field(default=31, ge=2, le=4096)
        learning_rate: float = Field(default=0.05, gt=0, le=1)
        min_data_in_leaf: int = Field(default=20, ge=1)
        feature_fraction: float = Field(default=1.0, gt=0, le=1)
        bagging_fraction: float = Field(default=1.0, gt=0, le=1)
        bagging_freq: int = Field(default=0, ge=0)
        lambda_l2: float = Field(default=0.0, ge=0)
        shuffle_inputs: bool = False
        """Fault drill: learn from rows whose inputs were shuffled column by column."""

    def __init__(self, config: Config) -> None:
        self._config = config

    def fit(
        self,
        inputs: NDArray[np.float32],
        labels: NDArray[np.float64],
        names: Sequence[str],
        seed: int,
        threads: int,
    ) -> Fitted:
        """Trains on n x inputs rows with n labels (0 or 1)."""
        import lightgbm

        settings = self._config.model_dump(exclude={"num_iterations", "shuffle_inputs"})
        parameters = {
            **settings,
            "objective": "binary",
            "seed": seed,
            "deterministic": True,
            "force_row_wise": True,
            "num_threads": threads,
            "verbosity": -1,
        }
        seen = shuffled(inputs, seed) if self._config.shuffle_inputs else inputs
        data = lightgbm.Dataset(seen, labels, feature_name=list(names), free_raw_data=True)
        trained = lightgbm.train(parameters, data, self._config.num_iterations)
        text = in_float32(trained.model_to_string())
        booster = lightgbm.Booster(model_str=text)
        return Fitted(
            runtime="onnx",
            model=_booster_to_onnx(booster, inputs.shape[1]),
            model_format="onnx",
            files={"model.txt": ("lightgbm", text.encode())},
            native="lightgbm",
            importance=trained.feature_importance("gain").astype(float).tolist(),
            predictions=np.asarray(
                trained.predict(inputs[:PARITY_ROWS], num_threads=threads), np.float64
            ),
        )


def shuffled(inputs: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
    """Shuffles each column by itself: what is left has the same values and no meaning."""
    generator = np.random.default_rng(seed)
    broken = inputs.copy()
    for at in range(broken.shape[1]):
        generator.shuffle(broken[:, at])
    return broken


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


def _booster_to_onnx(booster: Any, width: int) -> bytes:
    """Converts a booster; the graph takes `inputs` (n x width) and gives `probabilities`."""
    from onnxmltools import convert_lightgbm
    from onnxmltools.convert.common.data_types import FloatTensorType

    graph = convert_lightgbm(
        booster,
        name=GRAPH,
        initial_types=[("inputs", FloatTensorType([None, width]))],
        target_opset=ONNX_OPSET,
        zipmap=False,
    )
    return _canonical(graph)


def _canonical(graph: Any) -> bytes:
    """The same bytes for the same graph: converters list the operator sets in any order."""
    sets = sorted(graph.opset_import, key=lambda each: str(each.domain))
    del graph.opset_import[:]
    graph.opset_import.extend(sets)
    serialized: bytes = graph.SerializeToString(deterministic=True)
    return serialized


class Logistic(Trainer):
    """Logistic regression on standardized inputs with missing values at the mean."""

    class Config(_Config):
        """Settings, named as scikit-learn names them."""

        C: float = Field(default=1.0, gt=0)
        max_iter: int = Field(default=200, ge=1, le=10_000)
        class_weight: Literal["balanced"] | None = None

    def __init__(self, config: Config) -> None:
        self._config = config

    def fit(
        self,
        inputs: NDArray[np.float32],
        labels: NDArray[np.float64],
        names: Sequence[str],  # noqa: ARG002
        seed: int,
        threads: int,  # noqa: ARG002
    ) -> Fitted:
        """Trains on n x inputs rows with n labels (0 or 1)."""
        from skl2onnx import to_onnx
        from sklearn.impute import SimpleImputer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        model = make_pipeline(
            SimpleImputer(keep_empty_features=True),
            StandardScaler(),
            LogisticRegression(random_state=seed, **self._config.model_dump()),
        )
        model.fit(inputs, labels.astype(int))
        graph = to_onnx(
            model,
            inputs[:1],
            name=GRAPH,
            options={"zipmap": False},
            target_opset=ONNX_OPSET,
        )
        return Fitted(
            runtime="onnx",
            model=_canonical(graph),
            model_format="onnx",
            files={},
            importance=np.abs(model[-1].coef_[0]).tolist(),
            predictions=model.predict_proba(inputs[:PARITY_ROWS])[:, 1].astype(np.float64),
        )
