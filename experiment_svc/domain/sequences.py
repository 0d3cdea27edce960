"""Confidence sequences: intervals that hold at all looks together, however often one looks.

An asymptotic confidence sequence is the interval `estimate ± multiplier(n) · standard error`
whose multiplier, unlike the 1.96 of a fixed sample, grows slowly with the sample (as the root of
its logarithm), so that the chance of the truth ever lying outside stays at alpha. It is the
boundary of Robbins' normal mixture, carried over to any mean with a variance by a strong
approximation of its partial sums; nothing is assumed of the distribution, but the first look
must wait until the central limit theorem has begun to hold.

References:
    Waudby-Smith, Arbour, Sinha, Kennedy, Ramdas (2024), Time-uniform central limit theory and
    asymptotic confidence sequences, Annals of Statistics 52(6), Theorem 2.2 and Section 2.3.
    Robbins (1970), Statistical methods related to the law of the iterated logarithm.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy.special import lambertw


@dataclass(frozen=True, slots=True)
class Interval:
    """An always-valid interval.

    Attributes:
        estimate: Point estimate.
        lower: Lower end.
        upper: Upper end.
        p_value: Always-valid p-value of "the truth is 0".
    """

    estimate: float
    lower: float
    upper: float
    p_value: float


@dataclass(frozen=True, slots=True)
class Sequence:
    """A two-sided asymptotic confidence sequence.

    Attributes:
        alpha: Chance that the truth ever lies outside; each side has half of it.
        tuned_for: Sample size at which the interval is the narrowest possible. Ten times fewer
            cost 25 % of width, ten times more 7 %.

    >>> found = Sequence(0.05, 500).interval(0.1, 0.02, 500)
    >>> round(found.lower, 4), round(found.upper, 4), round(found.p_value, 7)
    (0.0393, 0.1607, 4.39e-05)
    """

    alpha: float
    tuned_for: int

    @property
    def rho_squared(self) -> float:
        """Variance of the mixture that is optimal at `tuned_for`.

        The width is smallest where x = n·rho² + 1 solves x - log(x) = 1 - log(alpha²).
        """
        x = -float(lambertw(-(self.alpha**2) / math.e, -1).real)
        return (x - 1) / self.tuned_for

    def multiplier(self, n: int) -> float:
        """How many standard errors the interval reaches to either side at sample size `n`."""
        x = n * self.rho_squared + 1
        return math.sqrt(x / (x - 1) * (math.log(x) - 2 * math.log(self.alpha)))

    def interval(self, estimate: float, standard_error: float, n: int) -> Interval:
        """The interval at one look.

        Args:
            estimate: Mean, difference or contrast.
            standard_error: Its estimated standard error, finite and not negative.
            n: Number of values it rests on, at least 1.
        """
        reach = self.multiplier(n) * standard_error
        p_value = self.p_value(estimate, standard_error, n)
        return Interval(estimate, estimate - reach, estimate + reach, p_value)

    def p_value(self, estimate: float, standard_error: float, n: int) -> float:
        """The smallest alpha whose interval would leave out 0, at this mixture.

        Valid at all looks together: under the null it ever falls below a with chance a at most.
        """
        if standard_error == 0:
            return 1.0 if estimate == 0 else 0.0
        x = n * self.rho_squared + 1
        log_p = 0.5 * math.log(x) - 0.5 * (estimate / standard_error) ** 2 * (x - 1) / x
        return math.exp(min(0.0, log_p))
