"""A drift detector for numeric features: the Wasserstein-1 distance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

Floats = npt.NDArray[np.float64]


class Comparison(Protocol):
    """What a detector is given: one feature in the reference and in a window, as counts.

    Attributes:
        reference: Counts of the reference, int64, one a cell.
        window: Counts of the window over the same cells.
        edges: Upper edges of all cells but the last, increasing; what lies in the first or in the
            last cell is outside the range of the reference.
        note: What else is known, in words.
    """

    @property
    def reference(self) -> npt.NDArray[np.int64]: ...
    @property
    def window(self) -> npt.NDArray[np.int64]: ...
    @property
    def edges(self) -> Floats: ...
    @property
    def note(self) -> str: ...


class DetectorScore(NamedTuple):
    """A score with what is needed to judge it."""

    score: float
    p_value: float | None
    threshold: float
    drifted: bool
    explanation: str


class Wasserstein:
    """Area between two distribution functions, in standard deviations of the reference.

    Each row counts at the middle of its cell, which integrates |F - G| by the trapezoid rule over
    the edges; rows outside the range of the reference count at its border, so that the distance
    is a lower bound for them. Where the reference has one value only there is no scale: the score
    is then the share of rows with another value.

    The threshold holds at any number of rows, without permutations and without a limit theorem.
    Let r = sqrt(1/n + 1/m) for n rows of a window and m of the reference, both drawn from F with
    standard deviation 1. Then the expected distance is at most J r with J the integral of
    sqrt(F (1 - F)), since |F_n - G_m| has mean 0 and second moment F (1 - F) r^2 before the
    modulus (Bobkov and Ledoux, theorem 3.2). Moving one of n values by d moves the distance by
    d/n at most, hence its variance is at most r^2 (Efron and Stein). By Cantelli's inequality it
    exceeds J r + t with probability at most r^2 / (r^2 + t^2); t is the greater of `threshold` and
    the t at which this is `false_alarm_rate`. F is estimated by the reference, and rows are taken
    as independent of each other.

    References: Bobkov and Ledoux 2019, One-dimensional empirical measures, order statistics, and
    Kantorovich transport distances, Memoirs of the AMS 261; Efron and Stein 1981, The jackknife
    estimate of variance, Annals of Statistics 9; Vallender 1974, Calculation of the Wasserstein
    distance between probability distributions on the line, Theory of Probability 18.
    """

    api_version: ClassVar[int] = 1
    capabilities: ClassVar[frozenset[str]] = frozenset({"numeric"})
    example_config: ClassVar[dict[str, Any]] = {"threshold": 0.2}

    class Config(BaseModel):
        """Settings."""

        model_config = ConfigDict(extra="forbid", frozen=True)

        threshold: float = Field(
            default=0.1,
            gt=0,
            allow_inf_nan=False,
            description="Least distance that matters, in standard deviations of the reference.",
        )
        false_alarm_rate: float = Field(
            default=0.05,
            gt=0,
            lt=1,
            description="Bound of the chance that a window without drift passes the threshold.",
        )

    def __init__(self, config: Config) -> None:
        self._config = config

    def score(self, comparison: Comparison) -> DetectorScore:
        """The distance and its threshold; 0 when one side has no values."""
        window, reference = comparison.window, comparison.reference
        n, m = float(window.sum()), float(reference.sum())
        if not n or not m:
            return DetectorScore(0.0, None, self._config.threshold, False, "no values to compare")
        places = middles(comparison.edges)
        scale = deviation(places, reference)
        r = float(np.sqrt(1 / n + 1 / m))
        if scale > 0:
            score = distance(places, window, reference) / scale
            threshold = self._threshold(r, spread(places, reference) / scale)
        else:
            score = float(window[reference == 0].sum()) / n
            threshold = self._threshold(r, 0.0)
        return DetectorScore(
            score,
            None,
            threshold,
            score > threshold,
            explained(score, threshold, comparison.note, constant=not scale > 0),
        )

    def _threshold(self, r: float, j: float) -> float:
        chance = r * float(np.sqrt(1 / self._config.false_alarm_rate - 1))
        return j * r + max(self._config.threshold, chance)


def middles(edges: Sequence[float] | Floats) -> Floats:
    """Where the rows of each cell count: its middle, and the border for the outermost two."""
    given = np.asarray(edges, dtype=np.float64)
    # Halved before they are added: the sum of two large edges may not be finite.
    inner = given[:-1] / 2 + given[1:] / 2
    return np.concatenate([given[:1], inner, given[-1:]])


def distance(places: Floats, first: npt.NDArray[np.int64], second: npt.NDArray[np.int64]) -> float:
    """Wasserstein-1 distance of two histograms over the same increasing places."""
    gap = np.cumsum(first) / first.sum() - np.cumsum(second) / second.sum()
    return float(np.abs(gap[:-1]) @ np.diff(places))


def deviation(places: Floats, counts: npt.NDArray[np.int64]) -> float:
    """Standard deviation of a histogram; exactly 0 when all rows lie in one cell."""
    if np.count_nonzero(counts) < 2:
        return 0.0
    share = counts / counts.sum()
    mean = share @ places
    return float(np.sqrt(share @ (places - mean) ** 2))


def spread(places: Floats, counts: npt.NDArray[np.int64]) -> float:
    """Integral of sqrt(F (1 - F)) for the distribution function F of a histogram."""
    below = np.cumsum(counts)[:-1] / counts.sum()
    return float(np.sqrt(below * (1 - below)) @ np.diff(places))


def explained(score: float, threshold: float, note: str, *, constant: bool) -> str:
    """The verdict in words."""
    relation = ">" if score > threshold else "<="
    unit = "of the rows differ from a constant reference" if constant else "standard deviations"
    tail = f" ({note})" if note else ""
    return f"Wasserstein {score:.3g} {unit} {relation} {threshold:.3g}{tail}"
