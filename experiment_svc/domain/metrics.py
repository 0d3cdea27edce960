"""Metrics: what is measured on one prediction, and which direction is better.

Three sources: a loss compares a score with the outcome, an outcome metric is the outcome itself,
an operational metric is known as soon as the prediction was answered.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from service_kit.errors import InvalidArgument

Floats = NDArray[np.float64]
Measure = Callable[[Floats, Floats], Floats]

_CLIP = 1e-7


class Source(Enum):
    """What a metric is computed from."""

    LOSS = "loss"
    OUTCOME = "outcome"
    OPERATIONAL = "operational"


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric that an experiment can name.

    Attributes:
        name: Its name in a plan.
        source: What it is computed from.
        measure: Values of scores and outcomes of the same shape; NaN where it has none. Not
            called for operational metrics.
        binary: Whether its values are 0 or 1, so that its variance follows from its mean.
    """

    name: str
    source: Source
    measure: Measure
    binary: bool = False


def brier(scores: Floats, outcomes: Floats) -> Floats:
    """Squared distance of predicted probability and outcome; NaN where the score is none.

    References:
        Brier (1950), Verification of forecasts expressed in terms of probability.

    >>> brier(np.array([0.9, 0.4]), np.array([1.0, 1.0])).round(2).tolist()
    [0.01, 0.36]
    """
    return np.where(_probability(scores) & _probability(outcomes), (scores - outcomes) ** 2, np.nan)


def log_loss(scores: Floats, outcomes: Floats) -> Floats:
    """Negative log-likelihood in nats of the outcome, 16.1 at most; NaN as for :func:`brier`.

    Probabilities are kept 1e-7 away from 0 and 1: one confident mistake must not be infinite.

    >>> log_loss(np.array([0.5, 0.0]), np.array([1.0, 1.0])).round(2).tolist()
    [0.69, 16.12]
    """
    usable = _probability(scores) & _probability(outcomes)
    p = np.clip(np.where(usable, scores, 0.5), _CLIP, 1 - _CLIP)
    loss = -(outcomes * np.log(p) + (1 - outcomes) * np.log1p(-p))
    return np.where(usable, loss, np.nan)


def absolute_error(scores: Floats, outcomes: Floats) -> Floats:
    """Distance of score and outcome, in the outcome's unit."""
    return np.abs(scores - outcomes)


def squared_error(scores: Floats, outcomes: Floats) -> Floats:
    """Squared distance of score and outcome, in the outcome's unit squared."""
    return (scores - outcomes) ** 2


def outcome_mean(_scores: Floats, outcomes: Floats) -> Floats:
    """The outcome itself: a conversion, a click, an amount."""
    return outcomes


def _probability(values: Floats) -> NDArray[np.bool_]:
    return (values >= 0) & (values <= 1)


ERROR_RATE = "error_rate"
LATENCY = "latency"

METRICS = {
    metric.name: metric
    for metric in (
        Metric("brier", Source.LOSS, brier),
        Metric("log_loss", Source.LOSS, log_loss),
        Metric("absolute_error", Source.LOSS, absolute_error),
        Metric("squared_error", Source.LOSS, squared_error),
        Metric("outcome_mean", Source.OUTCOME, outcome_mean),
        Metric(LATENCY, Source.OPERATIONAL, outcome_mean),
        Metric(ERROR_RATE, Source.OPERATIONAL, outcome_mean, binary=True),
    )
}
"""Every metric by name."""


def find_metric(name: str, field: str = "metric") -> Metric:
    """Look a metric up.

    Raises:
        InvalidArgument: `UNKNOWN_METRIC`.
    """
    try:
        return METRICS[name]
    except KeyError:
        known = ", ".join(METRICS)
        raise InvalidArgument("UNKNOWN_METRIC", f"must be one of {known}", field=field) from None
