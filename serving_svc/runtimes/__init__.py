"""Runtimes: plugins that load a model file and score matrices with it; one outside tool a file."""

from serving_svc.runtimes.base import (
    Matrix,
    ModelRuntime,
    ModelUnusableError,
    Scorer,
    warmed,
)
from serving_svc.runtimes.catalog import GROUP, RuntimeCatalog, make_runtime

__all__ = [
    "GROUP",
    "Matrix",
    "ModelRuntime",
    "ModelUnusableError",
    "RuntimeCatalog",
    "Scorer",
    "make_runtime",
    "warmed",
]
