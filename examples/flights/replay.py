"""The replay of a span of the year as ticks of simulated time, for traffic that has a past.

A tick says what a client does at that moment: push the features that became known, ask for a
prediction for each flight due to leave, report the outcomes of the flights that landed. The order
within a tick is features, requests, outcomes. With a step of 30 minutes the pushed features are
exactly those of a point-in-time join at scheduled departure; a longer step serves older ones.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import pandas as pd

from examples.flights.data import (
    YEAR_START,
    flights_between,
    load_flights,
    request_table,
    row_bounds,
)
from examples.flights.features import TABLES, feature_tables

STEP = timedelta(minutes=30)
_RESOLUTION = timedelta(microseconds=1)


@dataclass(frozen=True)
class Tick:
    """What happens in [time, time + step) of the replay.

    `features` holds, per table, the newest row of each entity that changed in (time - step, time],
    without the tables of no change; `requests` the sampled flights due to leave in the tick, as
    `data.request_table` gives them; `outcomes` the landings in the tick of flights that this plan
    asked for: flight_id, late, arr_delay, label_timestamp.
    """

    time: datetime
    features: Mapping[str, pd.DataFrame]
    requests: pd.DataFrame
    outcomes: pd.DataFrame


@dataclass(frozen=True)
class Totals:
    """How much a plan will yield in all, for a progress bar."""

    ticks: int
    requests: int
    outcomes: int
    feature_rows: int


@dataclass(frozen=True)
class Feed:
    """Rows in order of tick; those of tick n lie in rows[bounds[n]:bounds[n + 1]]."""

    rows: pd.DataFrame
    bounds: Sequence[int]

    def of_tick(self, number: int) -> pd.DataFrame:
        """The rows of one tick, as a view."""
        return self.rows.iloc[self.bounds[number] : self.bounds[number + 1]]


class ReplayPlan:
    """The ticks from `start` to `end`; iterate it as often as wanted, it is the same each time.

    What was known at `start` is taken to be online already. Cancelled flights are asked for too
    and have no outcome; a flight that lands after `end` has none in this plan.
    """

    def __init__(
        self,
        times: Sequence[datetime],
        requests: Feed,
        outcomes: Feed,
        tables: Mapping[str, Feed],
    ) -> None:
        """Take the feeds that `replay_plan` cuts by the ticks' times."""
        self._times = times
        self._requests = requests
        self._outcomes = outcomes
        self._tables = tables
        self.totals = Totals(
            ticks=len(times),
            requests=len(requests.rows),
            outcomes=len(outcomes.rows),
            feature_rows=sum(len(feed.rows) for feed in tables.values()),
        )

    def __len__(self) -> int:
        """How many ticks the plan has."""
        return len(self._times)

    def __iter__(self) -> Iterator[Tick]:
        """Yield the ticks in order of time."""
        return (self._tick(number) for number in range(len(self)))

    def _tick(self, number: int) -> Tick:
        known = {name: feed.of_tick(number) for name, feed in self._tables.items()}
        return Tick(
            time=self._times[number],
            features={name: rows for name, rows in known.items() if len(rows)},
            requests=self._requests.of_tick(number),
            outcomes=self._outcomes.of_tick(number),
        )


def replay_plan(
    start: datetime,
    end: datetime,
    sample: float = 1.0,
    seed: int = 0,
    *,
    step: timedelta = STEP,
    tables: Collection[str] = tuple(TABLES),
) -> ReplayPlan:
    """Plan the replay of the flights scheduled in [start, end).

    `sample` in (0, 1] is the share of flights that are asked for. Whether a flight is depends on
    `seed` alone, not on the span, and a smaller sample is part of a larger one. `tables` names
    the feature tables to push. Raises ValueError naming the argument that does not hold.
    """
    _check(start, end, sample, step, tables)
    flights = flights_between(start, end)
    flights = flights[_draw(seed)[flights.index] < sample]
    times = [start + number * step for number in range(-(-(end - start) // step))]
    requests, outcomes = request_table(flights), _outcomes(flights, end)
    return ReplayPlan(
        times,
        Feed(requests, row_bounds(requests["event_timestamp"], [*times, end])),
        Feed(outcomes, row_bounds(outcomes["label_timestamp"], [*times, end])),
        {name: _known(name, times) for name in TABLES if name in tables},
    )


def _check(
    start: datetime, end: datetime, sample: float, step: timedelta, tables: Collection[str]
) -> None:
    if start.tzinfo is None or end.tzinfo is None:
        raise ValueError("start and end need a time zone")
    if not YEAR_START <= start < end:
        raise ValueError("start must lie in the year and before end")
    if not 0.0 < sample <= 1.0:
        raise ValueError("sample must be in (0, 1]")
    if step <= timedelta(0):
        raise ValueError("step must be positive")
    if not set(tables) <= set(TABLES):
        raise ValueError("tables names a table that does not exist")


def _draw(seed: int) -> np.ndarray:
    """One uniform number per flight of the year, by position in `load_flights`."""
    return np.random.default_rng(seed).random(len(load_flights()))


def _outcomes(flights: pd.DataFrame, end: datetime) -> pd.DataFrame:
    landed = flights[flights["landed_at"] < pd.Timestamp(end)]
    table = landed[["flight_id", "late", "arr_delay", "landed_at"]].astype({"late": "int64"})
    table = table.rename(columns={"landed_at": "label_timestamp"})
    return table.sort_values(["label_timestamp", "flight_id"], ignore_index=True)


def _known(name: str, times: Sequence[datetime]) -> Feed:
    """The rows that became known in (time - step, time] of each tick, the newest per entity.

    The first tick has none: what was known at the start is online already.
    """
    table, key = feature_tables()[name], TABLES[name].key
    # A row of exactly a tick's time is known at that tick: intervals are closed on the right.
    edges = row_bounds(table["event_timestamp"], [time + _RESOLUTION for time in times])
    rows = table.iloc[edges[0] : edges[-1]]
    tick = np.repeat(np.arange(1, len(times)), np.diff(edges))
    newest = ~rows[[key]].assign(tick=tick).duplicated(keep="last").to_numpy()
    bounds = np.searchsorted(tick[newest], np.arange(len(times) + 1))
    return Feed(rows[newest].reset_index(drop=True), bounds.tolist())
