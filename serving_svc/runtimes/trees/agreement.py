"""Whether two scorers answer alike, asked where it is hardest."""

from __future__ import annotations

import numpy as np

from serving_svc.runtimes.base import Matrix, Scorer
from serving_svc.runtimes.trees.forest import Forest

ROWS = 512
#: float32 sums, made in the same order; powers of e are what differs.
RELATIVE, ABSOLUTE = 1e-5, 1e-6
_MISSING = 0.02


def hard_rows(forest: Forest, rows: int = ROWS, seed: int = 0) -> Matrix:
    """Rows of values that lie on thresholds or next to them, with some far away and some missing.

    The next float above a threshold goes another way than the threshold, so that a comparison that
    is done in the wrong order, precision or strictness shows.
    """
    rng = np.random.default_rng(seed)
    matrix = (3 * rng.standard_normal((rows, forest.inputs))).astype(np.float32)
    features, thresholds = forest.thresholds
    for feature in np.unique(features):
        own = rng.choice(thresholds[features == feature], rows)
        aside = rng.choice(np.array([-np.inf, np.inf], np.float32), rows)
        own = np.where(rng.random(rows) < 0.5, own, np.nextafter(own, aside))
        matrix[:, feature] = np.where(rng.random(rows) < 0.9, own, matrix[:, feature])
    if forest.doubled:
        matrix[rng.random(matrix.shape) < _MISSING] = np.nan
    return matrix


def agree(forest: Forest, one: Scorer, other: Scorer) -> bool:
    """Whether two scorers of a forest answer alike, to a few units of the last place."""
    matrix = hard_rows(forest)
    found, expected = one(matrix), other(matrix)
    return found.shape == expected.shape and np.allclose(
        found, expected, rtol=RELATIVE, atol=ABSOLUTE, equal_nan=True
    )
