"""Many tests at once: p-values adjusted so that the error of the whole family is held."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from monitor_svc.domain.sketches import Floats


def holm(p_values: Sequence[float]) -> Floats:
    """Adjusted p-values that hold the chance of any false alarm, under any dependence.

    Reference: Holm 1979, A simple sequentially rejective multiple test procedure, Scandinavian
    Journal of Statistics 6.

    >>> holm([0.01, 0.04]).tolist()
    [0.02, 0.04]
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    raised = np.maximum.accumulate(p[order] * (len(p) - np.arange(len(p))))
    return _unsorted(raised, order)


def conformal_quantile(scores: Floats, rate: float) -> float:
    """The score that an exchangeable further one exceeds with probability `rate` at most.

    With fewer than 1/rate - 1 scores no such bound exists; then it is the greatest of them, which
    is exceeded with probability 1/(count + 1).

    Reference: Vovk, Gammerman, Shafer 2005, Algorithmic Learning in a Random World.

    >>> conformal_quantile(np.arange(1.0, 200.0), 0.05)
    190.0
    """
    ranked = np.sort(scores)
    rank = int(np.ceil((len(ranked) + 1) * (1 - rate)))
    return float(ranked[min(rank, len(ranked)) - 1])


def _unsorted(adjusted: Floats, order: np.typing.NDArray[np.intp]) -> Floats:
    result = np.empty_like(adjusted)
    result[order] = np.minimum(adjusted, 1.0)
    return result
