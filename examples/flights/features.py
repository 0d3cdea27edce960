"""The feature source tables: what was known about carriers, routes, origins and planes, and when.

Each row says what a feature was worth from its `event_timestamp` on, computed from flights that
had landed by then and from nothing else. Tables hold a row per entity and *tick of change*: the
values are computed on a fixed grid and a tick at which nothing changed has no row, so a
point-in-time join that takes the latest row (no time-to-live) is exact on the grid. Every entity
begins with a row at the start of the year that says "nothing known yet" (counts and delays 0), so
a join never comes back empty.

| table | key | grid |
|---|---|---|
| carrier_delays | carrier | 3 h |
| route_delays | route | 24 h, at 08:00 UTC, the lull of the night in New York |
| origin_delays | origin | 30 min |
| origin_weather | origin | the hourly report |
| tail_history | tailnum | 30 min |

All grids are multiples of 30 minutes, so a replay in steps of 30 minutes serves exactly what a
point-in-time join trains on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache

import numpy as np
import pandas as pd

from examples.flights.data import (
    TIMESTAMP,
    WEATHER_FEATURES,
    YEAR_END,
    YEAR_START,
    load_flights,
    load_planes,
    load_weather,
    micros,
)

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class TableSpec:
    """A feature source table: its name, the key of its entity and the columns of its features."""

    name: str
    key: str
    features: tuple[str, ...]


@dataclass(frozen=True)
class Window:
    """A trailing window (tick - span, tick] and the columns made of the landings in it."""

    span: timedelta
    mean: str
    count: str | None = None
    late_share: str | None = None


@dataclass(frozen=True)
class Grid:
    """The instants at which a table's values are computed: every `step`, shifted by `offset`."""

    step: timedelta
    offset: timedelta = timedelta()

    def ticks(self) -> np.ndarray:
        """The start of the year and the grid after it, in microseconds since the epoch (int64)."""
        start, end = _micros(YEAR_START - EPOCH), _micros(YEAR_END - EPOCH)
        step, offset = _micros(self.step), _micros(self.offset)
        later = np.arange(start + (offset or step), end + 1, step, dtype="int64")
        return np.concatenate([[start], later])


TABLES: Mapping[str, TableSpec] = {
    spec.name: spec
    for spec in (
        TableSpec("carrier_delays", "carrier", ("mean_delay_7d", "flights_7d", "late_share_7d")),
        TableSpec("route_delays", "route", ("mean_delay_30d", "flights_30d")),
        TableSpec("origin_delays", "origin", ("mean_delay_6h", "flights_6h", "mean_delay_2h")),
        TableSpec("origin_weather", "origin", WEATHER_FEATURES),
        TableSpec("tail_history", "tailnum", ("last_arrival_delay", "plane_age", "seats")),
    )
}

# What the example's model is fed. The names of carrier, destination and origin are left out: with
# the delay means beside them they cost more out of time (June, trained on January to March:
# PR-AUC .613 with, .625 without) than they give.
MODEL_FEATURES = (
    "mean_delay_7d", "mean_delay_30d", "mean_delay_6h", "mean_delay_2h", *WEATHER_FEATURES,
    "last_arrival_delay", "plane_age", "seats", "hour", "weekday", "distance",
)  # fmt: skip

CARRIER_GRID = Grid(timedelta(hours=3))
ROUTE_GRID = Grid(timedelta(hours=24), timedelta(hours=8))
ORIGIN_GRID = Grid(timedelta(minutes=30))
TAIL_STEP = timedelta(minutes=30)

CARRIER_WINDOWS = (Window(timedelta(days=7), "mean_delay_7d", "flights_7d", "late_share_7d"),)
ROUTE_WINDOWS = (Window(timedelta(days=30), "mean_delay_30d", "flights_30d"),)
ORIGIN_WINDOWS = (
    Window(timedelta(hours=6), "mean_delay_6h", "flights_6h"),
    Window(timedelta(hours=2), "mean_delay_2h"),
)


@cache
def feature_tables() -> Mapping[str, pd.DataFrame]:
    """Every feature source table by name, sorted by event_timestamp and key; treat as read-only.

    Columns: the key, the features (float64, counts int64, never absent), event_timestamp.
    """
    frames = {
        "carrier_delays": rolling_table("carrier", CARRIER_GRID, CARRIER_WINDOWS),
        "route_delays": rolling_table("route", ROUTE_GRID, ROUTE_WINDOWS),
        "origin_delays": rolling_table("origin", ORIGIN_GRID, ORIGIN_WINDOWS),
        "origin_weather": load_weather(),
        "tail_history": tail_table(),
    }
    return {
        name: frames[name][[spec.key, *spec.features, "event_timestamp"]]
        for name, spec in TABLES.items()
    }


def rolling_table(key: str, grid: Grid, windows: tuple[Window, ...]) -> pd.DataFrame:
    """Trailing means of arrival delay by `key` on a grid, without the ticks of no change."""
    ticks = grid.ticks()
    landed = dict(iter(landings().groupby(key)))
    never = landings().iloc[:0]
    parts = []
    for name in sorted(load_flights()[key].unique()):
        columns = _rolling_columns(landed.get(name, never), ticks, windows)
        parts.append(pd.DataFrame({key: name, **_changes(columns, ticks)}))
    return _sorted_table(pd.concat(parts, ignore_index=True), key)


@cache
def landings() -> pd.DataFrame:
    """The flights that arrived, in order of landing."""
    flights = load_flights()
    arrived = flights[flights["landed_at"].notna()]
    return arrived.sort_values(["landed_at", "flight_id"], ignore_index=True)


def _rolling_columns(
    landed: pd.DataFrame, ticks: np.ndarray, windows: tuple[Window, ...]
) -> dict[str, np.ndarray]:
    at = micros(landed["landed_at"])
    # Whole minutes: sums of integers are exact, so the means do not depend on the order.
    delays = _running_sum(landed["arr_delay"].to_numpy())
    lates = _running_sum(landed["late"].to_numpy())
    last = np.searchsorted(at, ticks, side="right")
    columns: dict[str, np.ndarray] = {}
    for window in windows:
        first = np.searchsorted(at, ticks - _micros(window.span), side="right")
        count = last - first
        columns[window.mean] = (delays[last] - delays[first]) / np.maximum(count, 1)
        if window.count:
            columns[window.count] = count.astype("int64")
        if window.late_share:
            columns[window.late_share] = (lates[last] - lates[first]) / np.maximum(count, 1)
    return columns


def _changes(columns: dict[str, np.ndarray], ticks: np.ndarray) -> dict[str, np.ndarray]:
    """The rows at which any column differs from the row before, with their ticks."""
    keep = np.zeros(len(ticks), dtype=bool)
    keep[0] = True
    for values in columns.values():
        keep[1:] |= values[1:] != values[:-1]
    return {name: values[keep] for name, values in {**columns, "event_timestamp": ticks}.items()}


def tail_table() -> pd.DataFrame:
    """Each plane's last arrival delay, known from the next half hour on, with its age and seats."""
    landed, step = landings(), _micros(TAIL_STEP)
    history = pd.DataFrame(
        {
            "tailnum": landed["tailnum"],
            "last_arrival_delay": landed["arr_delay"],
            "event_timestamp": -(-micros(landed["landed_at"]) // step) * step,
        }
    ).drop_duplicates(["tailnum", "event_timestamp"], keep="last")
    planes = load_planes()
    unknown = pd.DataFrame(
        {
            "tailnum": planes["tailnum"],
            "last_arrival_delay": 0.0,
            "event_timestamp": _micros(YEAR_START - EPOCH),
        }
    )
    rows = pd.concat([unknown, history], ignore_index=True)
    return _sorted_table(rows.merge(planes, on="tailnum", how="left"), "tailnum")


def _running_sum(values: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(values.astype("int64"))])


def _micros(span: timedelta) -> int:
    return span // timedelta(microseconds=1)


def _sorted_table(rows: pd.DataFrame, key: str) -> pd.DataFrame:
    instants = pd.to_datetime(rows["event_timestamp"], unit="us", utc=True)
    rows = rows.assign(event_timestamp=instants.astype(TIMESTAMP))
    return rows.sort_values(["event_timestamp", key], ignore_index=True)
