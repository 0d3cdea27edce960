"""Sample ratio mismatch: do the arms hold the shares of units that were intended?

A mismatch means that units got lost on one side, and then no comparison of the arms can be
trusted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from scipy.special import gammaln

CONCENTRATION = 2_500.0
"""Weight of the prior in units: largest power against losses of some per cent of an arm."""


def srm_p_value(
    counts: Sequence[int], weights: Sequence[float], concentration: float = CONCENTRATION
) -> float:
    """Sequential multinomial test of the intended shares; may be looked at after every unit.

    Args:
        counts: Units of each arm so far, shape (k,).
        weights: Intended shares, shape (k,), positive; need not sum to 1.
        concentration: Sum of the Dirichlet prior's parameters, centred at the intended shares.

    Returns:
        Always-valid p-value: the inverse Bayes factor of "other shares" against the intended
        ones, at most 1.

    References:
        Lindon, Malek (2022), Anytime-valid inference for multinomial count data, NeurIPS 35.

    >>> srm_p_value([5_000, 5_000], [1, 1])
    1.0
    >>> srm_p_value([5_000, 4_500], [1, 1]) < 0.001
    True
    """
    total = math.fsum(weights)
    shares = [weight / total for weight in weights]
    n = sum(counts)
    log_factor = float(gammaln(concentration) - gammaln(concentration + n))
    for count, share in zip(counts, shares, strict=True):
        prior = concentration * share
        log_factor += float(gammaln(prior + count) - gammaln(prior)) - count * math.log(share)
    return math.exp(min(0.0, -log_factor))
