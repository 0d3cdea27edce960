"""From rows to evidence: what a batch of exposures, or of exposures with outcomes, adds.

Rows are columns of arrays, so that the work of a batch is a few passes over them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from experiment_svc.domain.evidence import Evidence, Kind, Series, Tally
from experiment_svc.domain.metrics import ERROR_RATE, LATENCY, Source
from experiment_svc.domain.moments import Floats, Ints, Moments, grouped
from experiment_svc.domain.plans import Design, Experiment

DAY_US = 86_400_000_000


@dataclass(frozen=True, slots=True)
class Exposures:
    """Rows of one experiment, one unit a row.

    Attributes:
        assigned: Index of the arm whose answer the unit got, shape (n,).
        scores: First output of each arm, shape (n, arms); NaN where an arm gave none.
        latencies_us: Time each arm took, shape (n, arms); NaN where it did not answer.
        failed: 1 where an arm failed, 0 where it answered, NaN where it was not asked; shape
            (n, arms).
        event_times_us: Microseconds since the Unix epoch, shape (n,).
    """

    assigned: Ints
    scores: Floats
    latencies_us: Floats
    failed: Floats
    event_times_us: Ints

    def take(self, rows: Ints) -> Exposures:
        """Some of the rows."""
        return Exposures(
            self.assigned[rows],
            self.scores[rows],
            self.latencies_us[rows],
            self.failed[rows],
            self.event_times_us[rows],
        )


def exposed(experiment: Experiment, rows: Exposures) -> Mapping[int, Evidence]:
    """What exposures add, by day since the Unix epoch, before any outcome is known."""
    days = rows.event_times_us // DAY_US
    moments = _series(experiment, LATENCY, rows.latencies_us, rows.assigned, days)
    moments |= _series(experiment, ERROR_RATE, rows.failed, rows.assigned, days)
    counts = _counts(rows.assigned, days)
    tallies = {key: Tally(exposures=count) for key, count in counts.items()}
    return _by_day(moments, tallies, days, rows.event_times_us)


def observed(
    experiment: Experiment,
    assigned: Ints,
    scores: Floats,
    event_times_us: Ints,
    outcomes: Floats,
) -> Mapping[int, Evidence]:
    """What outcomes add to exposures already counted, by the exposures' day.

    Args:
        experiment: Whose metrics are computed.
        assigned: As in :class:`Exposures`.
        scores: As in :class:`Exposures`.
        event_times_us: Event times of the exposures, shape (n,).
        outcomes: Finite outcomes, shape (n,).
    """
    days = event_times_us // DAY_US
    moments: dict[tuple[int, Series], Moments] = {}
    for name in sorted({spec.metric for spec in experiment.specs}):
        metric = next(spec.definition for spec in experiment.specs if spec.metric == name)
        if metric.source is not Source.OPERATIONAL:
            columns = [metric.measure(column, outcomes) for column in scores.T]
            values = np.column_stack(columns)
            moments |= _series(experiment, name, values, assigned, days)
    tallies = {key: Tally(outcomes=count) for key, count in _counts(assigned, days).items()}
    return _by_day(moments, tallies, days, event_times_us)


def _series(
    experiment: Experiment, metric: str, values: Floats, assigned: Ints, days: Ints
) -> dict[tuple[int, Series], Moments]:
    """Moments of every series of one metric, by day; values have shape (n, arms)."""
    columns = {}
    if experiment.design is Design.PAIRED:
        # One incomplete row would make the two means speak of different units.
        complete = np.isfinite(values.sum(axis=1, keepdims=True))
        whole = np.where(complete, values, np.nan)
        for arm in range(values.shape[1]):
            columns[Series(metric, arm)] = whole[:, arm]
        for arm in range(1, values.shape[1]):
            series = Series(metric, arm, Kind.DIFFERENCE.value)
            columns[series] = whole[:, arm] - whole[:, 0]
    else:
        for arm in range(values.shape[1]):
            columns[Series(metric, arm)] = np.where(assigned == arm, values[:, arm], np.nan)
    return {
        (day, series): moments
        for series, column in columns.items()
        for day, moments in grouped(column, days).items()
    }


def _counts(assigned: Ints, days: Ints) -> dict[tuple[int, int], int]:
    pairs, counts = np.unique(np.column_stack([days, assigned]), axis=0, return_counts=True)
    return {
        (int(day), int(arm)): int(count) for (day, arm), count in zip(pairs, counts, strict=True)
    }


def _by_day(
    moments: Mapping[tuple[int, Series], Moments],
    tallies: Mapping[tuple[int, int], Tally],
    days: Ints,
    event_times_us: Ints,
) -> Mapping[int, Evidence]:
    result = {}
    for day in np.unique(days).tolist():
        newest = int(event_times_us[days == day].max())
        result[day] = Evidence(
            {series: value for (at, series), value in moments.items() if at == day},
            {arm: value for (at, arm), value in tallies.items() if at == day},
            newest,
        )
    return result
