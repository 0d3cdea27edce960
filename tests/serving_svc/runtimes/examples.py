"""Data for the runtimes' tests, with missing values and values that lie on thresholds."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

WIDTH = 4


def rows(count: int = 500) -> npt.NDArray[np.float32]:
    """Rows of four columns; a tenth of the values is missing, one column is a small integer."""
    rng = np.random.default_rng(3)
    table = rng.normal(size=(count, WIDTH)).astype(np.float32)
    table[:, 1] = rng.integers(0, 5, count)
    table[rng.random(table.shape) < 0.1] = np.nan
    return table


def labels(table: npt.NDArray[np.float32], classes: int = 2) -> npt.NDArray[np.int64]:
    """Labels that depend on the first two columns."""
    drive = np.nan_to_num(table[:, 0]) + np.nan_to_num(table[:, 1])
    cuts = np.quantile(drive, np.linspace(0, 1, classes + 1)[1:-1])
    return np.digitize(drive, cuts).astype(np.int64)
