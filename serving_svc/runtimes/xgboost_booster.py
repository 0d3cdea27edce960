"""XGBoost's own formats, scored by its native library."""

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


class XgboostRuntime:
    """XGBoost boosters as JSON or UBJSON, told apart by their content; NaN is a missing value."""

    Config: ClassVar[type[BaseModel]] = RuntimeConfig
    api_version: ClassVar[int] = 1
    capabilities: ClassVar[frozenset[str]] = frozenset({"cpu", "format:xgboost"})

    def __init__(self, config: RuntimeConfig) -> None:
        self._threads = config.threads

    def load(self, path: Path, inputs: int, outputs: int) -> Scorer:
        """Load a model file; raises ModelUnusableError."""
        booster = self.read(path)
        check_width(booster.num_features(), inputs)

        def score(matrix: Matrix) -> Matrix:
            return columns(booster.inplace_predict(matrix, validate_features=False), outputs)

        return score

    def read(self, path: Path) -> Any:
        """The booster in a file; raises ModelUnusableError."""
        import xgboost

        content = path.read_bytes()
        # Its parsers end the process on what is neither JSON nor UBJSON.
        if not content.startswith(b"{"):
            raise ModelUnusableError("it is no XGBoost model in JSON or UBJSON")
        booster = xgboost.Booster({"nthread": self._threads})
        try:
            # From memory, for a path's ending would decide how the content is read.
            booster.load_model(bytearray(content))
        except xgboost.core.XGBoostError as error:
            raise ModelUnusableError("XGBoost refuses it") from error
        return booster
