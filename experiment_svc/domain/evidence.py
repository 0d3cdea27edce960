"""What has been seen of an experiment: sums over exposures and outcomes that merge.

The shards of a stream, the days of a run and the parts of a replay are added up; nothing here
keeps a row.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from itertools import chain

from experiment_svc.domain.moments import Moments, merge


class Kind(Enum):
    """What the values of a series are."""

    ARM = "arm"
    DIFFERENCE = "difference"


@dataclass(frozen=True, slots=True, order=True)
class Series:
    """A row of sufficient statistics.

    Attributes:
        metric: Name of the metric.
        arm: Index of the arm.
        kind: `arm` for the arm's own values; `difference` for the values of this arm minus the
            control's on the same units.
    """

    metric: str
    arm: int
    kind: str = Kind.ARM.value


@dataclass(frozen=True, slots=True)
class Tally:
    """Units of one arm: exposed to it, and of these with an outcome."""

    exposures: int = 0
    outcomes: int = 0

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.exposures + other.exposures, self.outcomes + other.outcomes)


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything an analysis rests on.

    Attributes:
        moments: Sufficient statistics by series.
        tallies: Units by the arm whose answer they got.
        newest_us: Newest event time that went in, microseconds since the Unix epoch; 0 for none.
    """

    moments: Mapping[Series, Moments] = field(default_factory=dict)
    tallies: Mapping[int, Tally] = field(default_factory=dict)
    newest_us: int = 0

    def arm(self, metric: str, index: int) -> Moments:
        """Values of one arm by one metric."""
        return self.moments.get(Series(metric, index), Moments())

    def difference(self, metric: str, index: int) -> Moments:
        """Differences of an arm to the control on the same units."""
        return self.moments.get(Series(metric, index, Kind.DIFFERENCE.value), Moments())

    def exposed(self, arms: int) -> tuple[int, ...]:
        """Units of each arm, in the arms' order."""
        return tuple(self.tallies.get(index, Tally()).exposures for index in range(arms))

    @property
    def outcomes(self) -> int:
        """Units with an outcome, in all arms."""
        return sum(tally.outcomes for tally in self.tallies.values())

    def __add__(self, other: Evidence) -> Evidence:
        return gather([self, other])


def gather(parts: Iterable[Evidence]) -> Evidence:
    """Add evidence up; the order does not matter beyond rounding."""
    whole = list(parts)
    series = sorted(set(chain.from_iterable(part.moments for part in whole)))
    arms = sorted(set(chain.from_iterable(part.tallies for part in whole)))
    return Evidence(
        {key: merge(part.moments[key] for part in whole if key in part.moments) for key in series},
        {arm: sum((part.tallies.get(arm, Tally()) for part in whole), Tally()) for arm in arms},
        max((part.newest_us for part in whole), default=0),
    )
