"""Figures of several rounds, and ratios between servers measured in the same rounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True)
class Spread:
    """A figure over rounds: its median, and the least and the most."""

    median: float
    low: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    """Median and extremes.

    Raises:
        ValueError: There are no values.
    """
    if not values:
        raise ValueError("no values")
    return Spread(median(values), min(values), max(values))


def ratio(ours: Sequence[float | None], theirs: Sequence[float | None]) -> Spread | None:
    """Ours by theirs, round by round, so that what slows a whole round down cancels out.

    Args:
        ours: A figure by round; nothing where there is none.
        theirs: The same of the other server, not zero.

    Returns:
        Nothing when no round has both.
    """
    pairs = zip(ours, theirs, strict=False)
    found = [mine / other for mine, other in pairs if mine is not None and other]
    return spread(found) if found else None
