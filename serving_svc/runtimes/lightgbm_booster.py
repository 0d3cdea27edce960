"""LightGBM's own text format, scored by its native library."""

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


class LightGbmRuntime:
    """LightGBM boosters in the text format of `Booster.save_model`."""

    Config: ClassVar[type[BaseModel]] = RuntimeConfig
    api_version: ClassVar[int] = 1
    capabilities: ClassVar[frozenset[str]] = frozenset({"cpu", "format:lightgbm"})

    def __init__(self, config: RuntimeConfig) -> None:
        self._threads = config.threads

    def load(self, path: Path, inputs: int, outputs: int) -> Scorer:
        """Load a model file; raises ModelUnusableError."""
        booster = self.read(path)
        check_width(booster.num_feature(), inputs)
        threads = self._threads

        def score(matrix: Matrix) -> Matrix:
            return columns(booster.predict(matrix, num_threads=threads), outputs)

        return score

    def read(self, path: Path) -> Any:
        """The booster in a file; raises ModelUnusableError."""
        import lightgbm

        try:
            return lightgbm.Booster(model_file=str(path))
        except lightgbm.basic.LightGBMError as error:
            raise ModelUnusableError("LightGBM refuses it") from error
