"""The flights as loaded: counts, clocks, keys and labels."""

from datetime import UTC, datetime

import pandas as pd
import pyarrow as pa
import pytest

from examples.flights.data import (
    ENTITY_KEYS,
    TIMESTAMP,
    WEATHER_FEATURES,
    as_arrow,
    label_table,
    load_flights,
    load_planes,
    load_weather,
)

LATE_SHARES = [0.22, 0.22, 0.22, 0.27, 0.21, 0.30, 0.30, 0.23, 0.13, 0.17, 0.17, 0.31]


def local_month(times: pd.Series) -> pd.Series:
    return times.dt.tz_convert("America/New_York").dt.month


def test_every_flight_of_the_year_is_there_once() -> None:
    flights = load_flights()
    assert len(flights) == 336_776
    assert flights["flight_id"].is_unique
    assert flights["departure"].is_monotonic_increasing
    by_month = local_month(flights["departure"]).value_counts()
    assert (by_month.min(), by_month.max()) == (24_951, 29_425)
    assert (flights["route"].nunique(), flights["carrier"].nunique()) == (224, 16)


def test_flights_that_never_arrived_have_neither_landing_nor_label() -> None:
    flights = load_flights()
    lost = flights["arr_delay"].isna()
    assert lost.sum() == 9_430
    for column in ("landed_at", "late"):
        assert flights[column].isna().equals(lost)
    present = flights[[c for c in flights if c not in {"landed_at", "late", "arr_delay"}]]
    assert not present.isna().to_numpy().any()


def test_late_share_of_all_flights_by_month() -> None:
    # Of all flights, the ones that never arrived included: so the base rates were counted.
    flights = load_flights()
    shares = flights["late"].fillna(0).astype("float64").groupby(local_month(flights["departure"]))
    assert shares.mean().to_numpy() == pytest.approx(LATE_SHARES, abs=0.006)


def test_first_flight_has_the_clocks_of_the_record() -> None:
    flight = load_flights().set_index("flight_id").loc["UA1545-2013-01-01T10"]
    assert flight["departure"] == pd.Timestamp("2013-01-01T10:15Z")
    # 2 minutes late, 227 in the air and 30 on the ground.
    assert flight["landed_at"] == pd.Timestamp("2013-01-01T14:34Z")
    assert (flight["late"], flight["route"], flight["hour"], flight["weekday"]) == (
        0, "EWR-IAH", 5, 1,
    )  # fmt: skip


def test_schedule_hour_is_the_local_clock_in_winter_and_summer() -> None:
    flights = load_flights()
    local = flights["departure"].dt.tz_convert("America/New_York")
    assert (local.dt.hour == flights["hour"]).all()
    assert (local.dt.day_of_week == flights["weekday"]).all()


def test_landing_follows_departure() -> None:
    arrived = load_flights().dropna(subset=["landed_at"])
    assert (arrived["landed_at"] > arrived["departure"]).all()


def test_weather_has_no_gaps_and_is_known_after_its_hour() -> None:
    weather = load_weather()
    assert len(weather) == 26_115
    assert not weather.isna().to_numpy().any()
    assert weather["wind_speed"].max() < 100.0
    assert weather["event_timestamp"].min() == pd.Timestamp("2013-01-01T07:00Z")
    assert list(weather) == ["origin", *WEATHER_FEATURES, "event_timestamp"]


def test_each_tail_number_has_one_row_of_its_plane() -> None:
    planes = load_planes()
    assert planes["tailnum"].is_unique
    assert set(planes["tailnum"]) == set(load_flights()["tailnum"])
    assert not planes.isna().to_numpy().any()


def test_label_table_is_half_open_and_holds_only_what_departure_knows() -> None:
    start, end = datetime(2013, 4, 1, 10, tzinfo=UTC), datetime(2013, 4, 2, 10, tzinfo=UTC)
    table = label_table(start, end)
    times = table["event_timestamp"]
    assert times.min() == pd.Timestamp(start)
    assert times.max() < pd.Timestamp(end)
    assert list(table) == [
        "flight_id", *ENTITY_KEYS, "event_timestamp", "hour", "weekday", "distance", "dest",
        "late", "label_timestamp",
    ]  # fmt: skip
    assert not table.isna().to_numpy().any()
    assert len(label_table(end, end)) == 0


def test_label_tables_of_adjoining_spans_make_the_whole() -> None:
    edges = [datetime(2013, 1, day, tzinfo=UTC) for day in (1, 7, 20)]
    halves = [label_table(*edges[:2]), label_table(*edges[1:])]
    pd.testing.assert_frame_equal(
        pd.concat(halves, ignore_index=True), label_table(edges[0], edges[2])
    )


def test_a_time_without_zone_is_refused() -> None:
    naive = datetime(2013, 1, 1)  # noqa: DTZ001
    with pytest.raises(ValueError, match="time zone"):
        label_table(naive, naive)


def test_arrow_types() -> None:
    day = [datetime(2013, 1, day, tzinfo=UTC) for day in (1, 2)]
    schema = as_arrow(label_table(*day)).schema
    assert schema.field("event_timestamp").type == pa.timestamp("us", tz="UTC")
    assert schema.field("late").type == pa.int64()
    assert schema.field("carrier").type in {pa.string(), pa.large_string()}
    assert load_flights()["landed_at"].dtype == TIMESTAMP
