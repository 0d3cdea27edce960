"""Writes the model as MLflow keeps it; `mlflow models serve` runs it."""

from __future__ import annotations

import os

import lightgbm
import mlflow.lightgbm

mlflow.lightgbm.save_model(
    lightgbm.Booster(model_file=os.environ["BENCH_NATIVE"]),
    os.environ["BENCH_MLFLOW_MODEL"],
    pip_requirements=["lightgbm"],
)
