"""How far the answers of a model file may be from those of the file that it was made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from training_svc.domain.metrics import all_metrics

ONNX, INT8 = "onnx", "int8_dynamic"
PREDICTION, LABEL = "modelyard.prediction", "modelyard.label"
"""Columns of a stored sample beside the inputs: what the trained model says, and the truth."""
NO_NUMBER = 1e30


@dataclass(frozen=True, slots=True)
class Tolerance:
    """What is close enough.

    Attributes:
        max_abs_diff: Absolute difference that a row's outputs may have.
        max_share: Share of rows, 0 to 1, that may differ by more.
    """

    max_abs_diff: float
    max_share: float = 0.0


@dataclass(frozen=True, slots=True)
class Parity:
    """A comparison of two model files on a sample; named as the registry's report names it."""

    method: str
    passed: bool
    reason: str
    tolerance: float
    max_share_beyond: float
    row_count: int = 0
    max_abs_diff: float = 0.0
    mean_abs_diff: float = 0.0
    share_beyond: float = 0.0
    source_bytes: int = 0
    target_bytes: int = 0
    metric_changes: Mapping[str, float] = field(default_factory=dict)


def compare(
    method: str,
    source: NDArray[np.float64],
    target: NDArray[np.float64],
    tolerance: Tolerance,
    sizes: tuple[int, int] = (0, 0),
) -> Parity:
    """Compares answers of two model files, n rows or n x outputs each.

    An answer that is no number counts as different by `NO_NUMBER`.

    Args:
        method: How the target was made.
        source: Answers of the source.
        target: Answers of what was made of it.
        tolerance: What is close enough.
        sizes: Bytes of source and target.
    """
    apart = np.abs(_table(target) - _table(source))
    apart = np.nan_to_num(apart, nan=NO_NUMBER, posinf=NO_NUMBER)
    beyond = float(np.mean(apart.max(axis=1) > tolerance.max_abs_diff))
    passed = beyond <= tolerance.max_share
    worst = float(apart.max())
    words = (
        f"{len(apart)} rows differ by up to {worst:.2g}; {beyond:.2%} of them by more than "
        f"{tolerance.max_abs_diff:g} ({tolerance.max_share:.2%} may)"
    )
    return Parity(
        method=method,
        passed=passed,
        reason=words,
        tolerance=tolerance.max_abs_diff,
        max_share_beyond=tolerance.max_share,
        row_count=len(apart),
        max_abs_diff=worst,
        mean_abs_diff=float(apart.mean()),
        share_beyond=beyond,
        source_bytes=sizes[0],
        target_bytes=sizes[1],
    )


def failed(method: str, reason: str, tolerance: Tolerance, source_bytes: int = 0) -> Parity:
    """There is nothing to compare, for a reason."""
    return Parity(
        method,
        passed=False,
        reason=reason,
        tolerance=tolerance.max_abs_diff,
        max_share_beyond=tolerance.max_share,
        source_bytes=source_bytes,
    )


def with_metrics(
    parity: Parity,
    labels: NDArray[np.float64],
    source: NDArray[np.float64],
    target: NDArray[np.float64],
) -> Parity:
    """The same, with how the metrics change on n labelled rows."""
    before, after = all_metrics(labels, source), all_metrics(labels, target)
    changes = {
        name: after[name] - value
        for name, value in before.items()
        if name in after and name not in ("rows", "base_rate")
    }
    return replace(parity, metric_changes=changes)


def _table(answers: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(answers, np.float64).reshape(len(answers), -1)
