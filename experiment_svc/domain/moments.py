"""Sufficient statistics that merge: count, mean and centred second moment."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Self

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Moments:
    """Count, mean and sum of squared deviations from the mean.

    Centred, because a sum of squares loses every digit of the variance when the mean is large.

    Attributes:
        n: Number of values.
        mean: Their mean; 0 when there are none.
        m2: Sum of their squared deviations from the mean.

    References:
        Chan, Golub, LeVeque (1983), Algorithms for computing the sample variance.

    >>> Moments.of([1.0, 2.0]) + Moments.of([6.0])
    Moments(n=3, mean=3.0, m2=14.0)
    """

    n: int = 0
    mean: float = 0.0
    m2: float = 0.0

    @classmethod
    def of(cls, values: Iterable[float]) -> Self:
        """Summarize finite values."""
        array = np.asarray(list(values), dtype=np.float64)
        if array.size == 0:
            return cls()
        mean = float(array.mean())
        return cls(int(array.size), mean, float(np.square(array - mean).sum()))

    def __add__(self, other: Moments) -> Moments:
        if self.n == 0:
            return other
        if other.n == 0:
            return self
        n = self.n + other.n
        step = other.mean - self.mean
        mean = self.mean + step * other.n / n
        return Moments(n, mean, self.m2 + other.m2 + step * step * self.n * other.n / n)

    @property
    def variance(self) -> float:
        """Unbiased variance of one value; 0 below two values."""
        return self.m2 / (self.n - 1) if self.n > 1 else 0.0


def merge(parts: Iterable[Moments]) -> Moments:
    """Put parts together; the order does not matter beyond rounding."""
    return reduce(Moments.__add__, parts, Moments())


def grouped(values: Floats, groups: Ints) -> Mapping[int, Moments]:
    """Summarize values by group in two passes over the arrays.

    Args:
        values: Values, shape (n,); rows with NaN do not count.
        groups: Group of each value, shape (n,).

    Returns:
        Moments of each group that has a value.
    """
    finite = np.isfinite(values)
    keys, index = np.unique(groups[finite], return_inverse=True)
    kept = values[finite]
    counts = np.bincount(index, minlength=keys.size)
    means = np.bincount(index, weights=kept, minlength=keys.size) / np.maximum(counts, 1)
    squares = np.bincount(index, weights=np.square(kept - means[index]), minlength=keys.size)
    return {
        int(key): Moments(int(n), float(mean), float(m2))
        for key, n, mean, m2 in zip(keys, counts, means, squares, strict=True)
    }
