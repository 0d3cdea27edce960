"""The built-in detectors, announced in the entry-point group ``modelyard.detectors``.

Each is a class with a pydantic ``Config``, an ``api_version`` and ``capabilities``, made with its
config; ``score`` takes a :class:`~monitor_svc.domain.comparison.Comparison` of counts.
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from scipy import special

from monitor_svc.domain.comparison import Comparison
from monitor_svc.domain.sketches import Floats, Ints

__all__ = ["ChiSquared", "DetectorScore", "JensenShannon", "Ks", "Psi"]

#: A cell counts on its own from this expected number of rows on (Cochran 1954).
FEWEST_EXPECTED = 5.0


class DetectorScore(NamedTuple):
    """A score with what is needed to judge it."""

    score: float
    p_value: float | None
    threshold: float
    drifted: bool
    explanation: str


class _Config(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Psi:
    """Population stability index: the symmetrized relative entropy of two histograms.

    Numeric features are cut into `bins` of equal shares of the reference; missing values are a
    cell of their own. Without drift PSI is not 0 but about (B - 1)(1/n + 1/m) and, divided by
    (1/n + 1/m), chi-squared with B - 1 degrees of freedom; hence the p-value, and a threshold that
    is raised by that expectation in small windows. Usual names: below 0.1 stable, below 0.25
    moderate, else significant.

    References: Siddiqi 2006, Credit Risk Scorecards; Yurdakul and Naranjo 2020, Statistical
    properties of the population stability index, Journal of Risk Model Validation 14(4).
    """

    api_version: ClassVar[int] = 1
    capabilities: ClassVar[frozenset[str]] = frozenset({"numeric", "categorical", "p_value"})

    class Config(_Config):
        """Settings."""

        threshold: float = Field(default=0.25, gt=0, allow_inf_nan=False)
        bins: int = Field(default=10, ge=2, le=100)

    def __init__(self, config: Config) -> None:
        self._config = config

    def score(self, comparison: Comparison) -> DetectorScore:
        """PSI of the window against the reference, with half a row added to every cell."""
        reference, window = pooled_cells(comparison, self._config.bins)
        n, m = float(window.sum()), float(reference.sum())
        freedom, noise = len(reference) - 1, 1 / max(n, 1) + 1 / max(m, 1)
        p, q = smoothed(window), smoothed(reference)
        score = float(np.sum((p - q) * np.log(p / q)))
        p_value = float(special.chdtrc(freedom, score / noise)) if freedom else 1.0
        threshold = self._config.threshold + freedom * noise
        name = "stable" if score < 0.1 else "moderate" if score < 0.25 else "significant"
        return DetectorScore(
            score, p_value, threshold, score > threshold,
            _explained("PSI", score, threshold, f"{name}; {comparison.note}"),
        )  # fmt: skip


class Ks:
    """Two-sample Kolmogorov-Smirnov distance over the cells of the reference.

    The greatest difference of the distribution functions at the edges of the cells: a lower bound
    of the exact distance, off by at most the fullest cell. The p-value is the asymptotic one and
    conservative with ties.

    Reference: Smirnov 1939; Conover 1972, A Kolmogorov goodness-of-fit test for discontinuous
    distributions, JASA 67.
    """

    api_version: ClassVar[int] = 1
    capabilities: ClassVar[frozenset[str]] = frozenset({"numeric", "p_value"})

    class Config(_Config):
        """Settings."""

        threshold: float = Field(default=0.1, gt=0, lt=1, allow_inf_nan=False)

    def __init__(self, config: Config) -> None:
        self._config = config

    def score(self, comparison: Comparison) -> DetectorScore:
        """The distance and its p-value; 0 and 1 when one side has no values."""
        n, m = comparison.window_count, comparison.reference_count
        threshold = self._config.threshold
        if not n or not m:
            return DetectorScore(0.0, 1.0, threshold, False, "no values to compare")
        gap = np.cumsum(comparison.window) / n - np.cumsum(comparison.reference) / m
        score = float(np.abs(gap).max())
        p_value = float(special.kolmogorov(np.sqrt(n * m / (n + m)) * score))
        return DetectorScore(
            score, p_value, threshold, score > threshold,
            _explained("KS", score, threshold, comparison.note),
        )  # fmt: skip


class ChiSquared:
    """Pearson's chi-squared test of homogeneity; its score is Cramér's V, from 0 to 1.

    Cells that expect fewer than five rows are pooled, so that many rare categories raise no alarm.
    For small differences V is about half the square root of PSI: 0.25 means the same in both.

    References: Pearson 1900; Cramér 1946, Mathematical Methods of Statistics; Cochran 1954, Some
    methods for strengthening the common chi-squared tests, Biometrics 10.
    """

    api_version: ClassVar[int] = 1
    capabilities: ClassVar[frozenset[str]] = frozenset({"numeric", "categorical", "p_value"})

    class Config(_Config):
        """Settings."""

        threshold: float = Field(default=0.25, gt=0, lt=1, allow_inf_nan=False)
        bins: int = Field(default=10, ge=2, le=100)

    def __init__(self, config: Config) -> None:
        self._config = config

    def score(self, comparison: Comparison) -> DetectorScore:
        """Cramér's V of the two samples with the p-value of the test."""
        reference, window = pooled_cells(comparison, self._config.bins)
        threshold = self._config.threshold
        statistic, freedom = chi_squared(reference, window)
        if not freedom:
            return DetectorScore(0.0, 1.0, threshold, False, "one cell only")
        total = float(reference.sum() + window.sum())
        # V in the scale of two equally large samples: else a window that is small beside its
        # reference could never reach a threshold.
        balance = 4 * float(reference.sum()) * float(window.sum()) / total**2
        score = float(min(1.0, np.sqrt(statistic / total / balance)))
        return DetectorScore(
            score, float(special.chdtrc(freedom, statistic)), threshold, score > threshold,
            _explained("Cramér's V", score, threshold, comparison.note),
        )  # fmt: skip


class JensenShannon:
    """Jensen-Shannon distance in base 2, from 0 to 1; without a p-value.

    The threshold is raised by what chance alone makes of it in a small window: the divergence of
    two samples of one distribution is about (B - 1)(1/n + 1/m) / (8 ln 2).

    References: Lin 1991, Divergence measures based on the Shannon entropy, IEEE Trans. Inf. Theory
    37; Endres and Schindelin 2003, A new metric for probability distributions, ibid. 49.
    """

    api_version: ClassVar[int] = 1
    capabilities: ClassVar[frozenset[str]] = frozenset({"numeric", "categorical"})

    class Config(_Config):
        """Settings."""

        threshold: float = Field(default=0.2, gt=0, lt=1, allow_inf_nan=False)
        bins: int = Field(default=10, ge=2, le=100)

    def __init__(self, config: Config) -> None:
        self._config = config

    def score(self, comparison: Comparison) -> DetectorScore:
        """The distance of the two histograms."""
        reference, window = pooled_cells(comparison, self._config.bins)
        n, m = float(window.sum()), float(reference.sum())
        if not n or not m:
            return DetectorScore(0.0, None, self._config.threshold, False, "no rows to compare")
        p, q = window / n, reference / m
        middle = (p + q) / 2
        divergence = (special.rel_entr(p, middle) + special.rel_entr(q, middle)).sum() / 2
        score = float(np.sqrt(max(divergence / np.log(2), 0.0)))
        noise = (len(reference) - 1) * (1 / n + 1 / m) / (8 * np.log(2))
        threshold = float(np.sqrt(self._config.threshold**2 + noise))
        return DetectorScore(
            score, None, threshold, score > threshold,
            _explained("JS", score, threshold, comparison.note),
        )  # fmt: skip


def pooled_cells(comparison: Comparison, bins: int) -> tuple[Ints, Ints]:
    """Reference and window over few cells: neighbours merged or rare ones pooled, missing last.

    Numeric cells are merged into `bins` of about equal shares of the reference; of a categorical
    feature those whose expected number in the window is below five share one cell. Which cells
    are merged depends on the reference and the window's size only, never on what the window has.
    """
    if comparison.ordered:
        groups = _equal_shares(comparison.reference, bins)
    else:
        groups = _rare_together(comparison.reference, comparison.window_count)
    reference = np.bincount(groups, weights=comparison.reference).astype(np.int64)
    window = np.bincount(groups, weights=comparison.window).astype(np.int64)
    if comparison.reference_missing or comparison.window_missing:
        reference = np.append(reference, comparison.reference_missing)
        window = np.append(window, comparison.window_missing)
    return reference, window


def _equal_shares(reference: Ints, bins: int) -> Ints:
    total = max(int(reference.sum()), 1)
    # A cell belongs to the bin in which its middle lies, so that a full cell stays alone.
    middle = (np.cumsum(reference) - reference / 2) / total
    share = np.clip((middle * bins).astype(np.int64), 0, bins - 1)
    return np.unique(share, return_inverse=True)[1].astype(np.int64)


def _rare_together(reference: Ints, rows: int) -> Ints:
    expected = reference * (rows / max(int(reference.sum()), 1))
    common = expected >= FEWEST_EXPECTED
    groups = np.cumsum(common) - 1
    return np.where(common, groups, common.sum()).astype(np.int64)


def smoothed(counts: Ints) -> Floats:
    """Shares with half a row added to each cell (Jeffreys' prior): none of them is 0."""
    shares: Floats = (counts + 0.5) / (counts.sum() + 0.5 * len(counts))
    return shares


def chi_squared(first: Ints, second: Ints) -> tuple[float, int]:
    """Pearson's statistic of a two-row table and its degrees of freedom; empty columns drop out."""
    table = np.stack([first, second]).astype(np.float64)
    table = table[:, table.sum(axis=0) > 0]
    rows = table.sum(axis=1, keepdims=True)
    if table.shape[1] < 2 or not rows.all():
        return 0.0, 0
    expected = rows * table.sum(axis=0) / table.sum()
    return float(((table - expected) ** 2 / expected).sum()), table.shape[1] - 1


def _explained(name: str, score: float, threshold: float, note: str) -> str:
    relation = ">" if score > threshold else "<="
    tail = f" ({note.strip('; ')})" if note.strip("; ") else ""
    return f"{name} {score:.3g} {relation} {threshold:.3g}{tail}"
