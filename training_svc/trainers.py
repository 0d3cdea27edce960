"""Built-in trainers, as plugins of the group `modelyard.trainers`.

A trainer fits a model to a matrix and exports it in a safe format that a runtime plugin loads. It
runs in a Ray worker: it imports what it needs when it is called.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from training_svc.conversion import (
    ConversionError,
    estimator_to_onnx,
    in_float32,
    lightgbm_to_onnx,
    xgboost_to_onnx,
)

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
        unconverted: Why there is no ONNX form of it; `model` is the native one then.
        curves: Metric by iteration, where the trainer has one.
    """

    runtime: str
    model: bytes
    model_format: str
    files: Mapping[str, tuple[str, bytes]]
    importance: Sequence[float]
    predictions: NDArray[np.float64]
    native: str = ""
    unconverted: str = ""
    curves: Mapping[str, Sequence[float]] = field(default_factory=dict)


def exported(
    convert: Callable[[], bytes],
    native: tuple[str, str, bytes],
    importance: Sequence[float],
    predictions: NDArray[np.floating],
) -> Fitted:
    """A model as ONNX, or in its native format when a converter refuses it.

    Args:
        convert: Gives the ONNX form; raises ConversionError.
        native: File name, format and content of the native form.
        importance: Importance of each input, in order.
        predictions: Scores of the first `PARITY_ROWS` rows.
    """
    name, kind, content = native
    scores = np.asarray(predictions, np.float64)
    try:
        model = convert()
    except ConversionError as error:
        return Fitted(kind, content, kind, {}, importance, scores, unconverted=str(error))
    files = {name: (kind, content)}
    return Fitted("onnx", model, "onnx", files, importance, scores, native=kind)


class Trainer(ABC):
    """What all trainers have in common."""

    api_version: ClassVar[int] = 1
    capabilities: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def fit(
        self,
        inputs: NDArray[np.float32],
        labels: NDArray[np.float64],
        names: Sequence[str],
        seed: int,
        threads: int,
    ) -> Fitted:
        """Trains on n x inputs rows with n labels (0 or 1)."""


class _Config(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True)
class Lesson:
    """What a model learns from, and with what.

    Attributes:
        inputs: n x inputs rows.
        labels: n labels, 0 or 1.
        names: Of the inputs.
        seed: Of every random number generator.
        threads: Threads to learn with.
    """

    inputs: NDArray[np.float32]
    labels: NDArray[np.float64]
    names: Sequence[str]
    seed: int
    threads: int

    @property
    def width(self) -> int:
        """Number of inputs."""
        return int(self.inputs.shape[1])

    @property
    def sample(self) -> NDArray[np.float32]:
        """The rows on which the exported model is compared with its source."""
        return self.inputs[:PARITY_ROWS]


C = TypeVar("C", bound=BaseModel)


class BuiltIn(Trainer, Generic[C]):
    """A trainer with its settings."""

    def __init__(self, config: C) -> None:
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
        return self._learn(Lesson(inputs, labels, names, seed, threads))

    @abstractmethod
    def _learn(self, lesson: Lesson) -> Fitted:
        """Trains and exports."""


class LightGBMConfig(_Config):
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


class LightGBM(BuiltIn[LightGBMConfig]):
    """Gradient boosted trees (Ke et al., NeurIPS 2017), exported to ONNX."""

    Config: ClassVar[type[BaseModel]] = LightGBMConfig

    def _learn(self, lesson: Lesson) -> Fitted:
        import lightgbm

        settings = self._config.model_dump(exclude={"num_iterations", "shuffle_inputs"})
        parameters = {
            **settings,
            "objective": "binary",
            "seed": lesson.seed,
            "deterministic": True,
            "force_row_wise": True,
            "num_threads": lesson.threads,
            "verbosity": -1,
        }
        seen = lesson.inputs
        if self._config.shuffle_inputs:
            seen = shuffled(seen, lesson.seed)
        data = lightgbm.Dataset(
            seen, lesson.labels, feature_name=list(lesson.names), free_raw_data=True
        )
        trained = lightgbm.train(parameters, data, self._config.num_iterations)
        text = in_float32(trained.model_to_string())
        booster = lightgbm.Booster(model_str=text)
        return exported(
            lambda: lightgbm_to_onnx(booster, lesson.width),
            ("model.txt", "lightgbm", text.encode()),
            trained.feature_importance("gain").astype(float).tolist(),
            trained.predict(lesson.sample, num_threads=lesson.threads),
        )


def shuffled(inputs: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
    """Shuffles each column by itself: what is left has the same values and no meaning."""
    generator = np.random.default_rng(seed)
    broken = inputs.copy()
    for at in range(broken.shape[1]):
        generator.shuffle(broken[:, at])
    return broken


class LogisticConfig(_Config):
    """Settings, named as scikit-learn names them."""

    C: float = Field(default=1.0, gt=0)
    max_iter: int = Field(default=200, ge=1, le=10_000)
    class_weight: Literal["balanced"] | None = None


class Logistic(BuiltIn[LogisticConfig]):
    """Logistic regression on standardized inputs with missing values at the mean."""

    Config: ClassVar[type[BaseModel]] = LogisticConfig

    def _learn(self, lesson: Lesson) -> Fitted:
        from sklearn.impute import SimpleImputer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        model = make_pipeline(
            SimpleImputer(keep_empty_features=True),
            StandardScaler(),
            LogisticRegression(random_state=lesson.seed, **self._config.model_dump()),
        )
        model.fit(lesson.inputs, lesson.labels.astype(int))
        return Fitted(
            runtime="onnx",
            model=estimator_to_onnx(model, lesson.width),
            model_format="onnx",
            files={},
            importance=np.abs(model[-1].coef_[0]).tolist(),
            predictions=model.predict_proba(lesson.sample)[:, 1].astype(np.float64),
        )


class XGBoostConfig(_Config):
    """Hyperparameters, named as XGBoost names them."""

    num_boost_round: int = Field(default=200, ge=1, le=10_000)
    max_depth: int = Field(default=6, ge=1, le=32)
    eta: float = Field(default=0.1, gt=0, le=1)
    min_child_weight: float = Field(default=1.0, ge=0)
    subsample: float = Field(default=1.0, gt=0, le=1)
    colsample_bytree: float = Field(default=1.0, gt=0, le=1)
    reg_lambda: float = Field(default=1.0, ge=0)


class XGBoost(BuiltIn[XGBoostConfig]):
    """Gradient boosted trees (Chen and Guestrin, KDD 2016), exported to ONNX."""

    Config: ClassVar[type[BaseModel]] = XGBoostConfig

    def _learn(self, lesson: Lesson) -> Fitted:
        import xgboost

        settings = self._config.model_dump(exclude={"num_boost_round"})
        parameters = {
            **settings,
            "objective": "binary:logistic",
            "seed": lesson.seed,
            "nthread": lesson.threads,
        }
        data = xgboost.DMatrix(lesson.inputs, lesson.labels)
        booster = xgboost.train(parameters, data, self._config.num_boost_round)
        gains = booster.get_score(importance_type="gain")
        return exported(
            lambda: xgboost_to_onnx(booster, lesson.width),
            ("model.ubj", "xgboost", bytes(booster.save_raw("ubj"))),
            # Without names of their own, columns are called f0, f1, ...
            [float(gains.get(f"f{at}", 0.0)) for at in range(lesson.width)],
            booster.predict(xgboost.DMatrix(lesson.sample)),
        )


class HistGradientBoostingConfig(_Config):
    """Settings, named as scikit-learn names them."""

    max_iter: int = Field(default=200, ge=1, le=10_000)
    learning_rate: float = Field(default=0.1, gt=0, le=1)
    max_leaf_nodes: int = Field(default=31, ge=2, le=4096)
    min_samples_leaf: int = Field(default=20, ge=1)
    l2_regularization: float = Field(default=0.0, ge=0)


class HistGradientBoosting(BuiltIn[HistGradientBoostingConfig]):
    """scikit-learn's histogram gradient boosting, as ONNX where skl2onnx manages, else as skops."""

    Config: ClassVar[type[BaseModel]] = HistGradientBoostingConfig

    def _learn(self, lesson: Lesson) -> Fitted:
        from sklearn.ensemble import HistGradientBoostingClassifier
        from skops import io

        model = HistGradientBoostingClassifier(
            random_state=lesson.seed, early_stopping=False, **self._config.model_dump()
        )
        model.fit(lesson.inputs, lesson.labels.astype(int))
        return exported(
            lambda: estimator_to_onnx(model, lesson.width),
            ("model.skops", "skops", io.dumps(model)),
            split_counts(model, lesson.width),
            model.predict_proba(lesson.sample)[:, 1],
        )


def split_counts(model: Any, width: int) -> list[float]:
    """How often each of `width` inputs is split on; the library has no importance of its own."""
    counts = np.zeros(width)
    for trees in model._predictors:  # noqa: SLF001
        for tree in trees:
            inner = tree.nodes[tree.nodes["is_leaf"] == 0]
            np.add.at(counts, inner["feature_idx"], 1)
    return [float(each) for each in counts]
