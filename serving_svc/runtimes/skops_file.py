"""scikit-learn estimators in skops' format, of types on a fixed list alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel

from serving_svc.runtimes.base import (
    Matrix,
    ModelUnusableError,
    RuntimeConfig,
    Scorer,
    check_width,
    columns,
)

ALLOWED = (
    "numpy.dtype",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
    "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
    "sklearn.tree._tree.Tree",
)
"""Types beside those that skops trusts by itself; none of them runs code that a file brings."""


class SkopsRuntime:
    """scikit-learn estimators of skops' trusted types, for those that ONNX can't hold.

    The answer is `predict_proba` where the estimator has it, `predict` otherwise.
    """

    Config: ClassVar[type[BaseModel]] = RuntimeConfig
    api_version: ClassVar[int] = 1
    capabilities: ClassVar[frozenset[str]] = frozenset({"cpu", "format:skops"})

    def __init__(self, config: RuntimeConfig) -> None:
        self._threads = config.threads

    def load(self, path: Path, inputs: int, outputs: int) -> Scorer:
        """Load a file; raises ModelUnusableError."""
        from threadpoolctl import threadpool_limits

        model = self.read(path)
        check_width(getattr(model, "n_features_in_", inputs), inputs)
        predict = getattr(model, "predict_proba", None) or model.predict
        threads = self._threads

        def score(matrix: Matrix) -> Matrix:
            with threadpool_limits(threads):
                return columns(predict(matrix), outputs)

        return score

    def read(self, path: Path) -> Any:
        """The estimator in a file of trusted types; raises ModelUnusableError."""
        from skops import io

        try:
            others = sorted(set(io.get_untrusted_types(file=path)) - set(ALLOWED))
        except Exception as error:
            raise ModelUnusableError("it is no skops file") from error
        if others:
            raise ModelUnusableError(f"it has types that are not allowed: {', '.join(others[:3])}")
        try:
            model = io.load(path, trusted=list(ALLOWED))
        except Exception as error:
            raise ModelUnusableError(f"skops refuses it: {type(error).__name__}") from error
        if not hasattr(model, "predict"):
            raise ModelUnusableError("it holds no estimator")
        return model
