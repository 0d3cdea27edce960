"""The feature tables: point-in-time correctness by brute force, sizes, and a model on them."""

from datetime import UTC, datetime, timedelta

import lightgbm
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from examples.flights.data import TIMESTAMP, label_table, load_flights, load_planes
from examples.flights.features import MODEL_FEATURES, TABLES, feature_tables

ROWS_AT_MOST = {
    "carrier_delays": 35_000,
    "route_delays": 80_000,
    "origin_delays": 55_000,
    "origin_weather": 27_000,
    "tail_history": 335_000,
}
DRAWS = st.integers(min_value=0, max_value=10**6)
BRUTE = settings(max_examples=30, deadline=None)


def feature_row(table: str, draw: int) -> pd.Series:
    frame = feature_tables()[table]
    return frame.iloc[draw * 7_919 % len(frame)]


def landed_in(key: str, row: pd.Series, span: timedelta) -> pd.DataFrame:
    """The flights of the row's entity that landed in the window before its time: a plain filter."""
    flights, now = load_flights(), row["event_timestamp"]
    return flights[
        (flights[key] == row[key])
        & (flights["landed_at"] <= now)
        & (flights["landed_at"] > now - span)
    ]


def mean_or_zero(values: pd.Series) -> float:
    return float(values.mean()) if len(values) else 0.0


@pytest.mark.parametrize("name", TABLES)
def test_shape_of_each_table(name: str) -> None:
    table, spec = feature_tables()[name], TABLES[name]
    assert list(table) == [spec.key, *spec.features, "event_timestamp"]
    assert table["event_timestamp"].dtype == TIMESTAMP
    assert table["event_timestamp"].is_monotonic_increasing
    assert not table.duplicated([spec.key, "event_timestamp"]).any()
    assert np.isfinite(table[list(spec.features)].to_numpy(dtype="float64")).all()
    assert 0.5 * ROWS_AT_MOST[name] < len(table) <= ROWS_AT_MOST[name]
    assert set(table[spec.key]) == set(load_flights()[spec.key])
    on_half_hour = table["event_timestamp"].dt.minute % 30 == 0
    assert on_half_hour.all()


@BRUTE
@given(draw=DRAWS)
def test_carrier_rows_use_only_what_had_landed(draw: int) -> None:
    row = feature_row("carrier_delays", draw)
    landed = landed_in("carrier", row, timedelta(days=7))
    assert row["flights_7d"] == len(landed)
    assert row["mean_delay_7d"] == pytest.approx(mean_or_zero(landed["arr_delay"]))
    assert row["late_share_7d"] == pytest.approx(mean_or_zero(landed["late"]))


@BRUTE
@given(draw=DRAWS)
def test_route_rows_use_only_what_had_landed(draw: int) -> None:
    row = feature_row("route_delays", draw)
    landed = landed_in("route", row, timedelta(days=30))
    assert row["flights_30d"] == len(landed)
    assert row["mean_delay_30d"] == pytest.approx(mean_or_zero(landed["arr_delay"]))


@BRUTE
@given(draw=DRAWS)
def test_origin_rows_use_only_what_had_landed(draw: int) -> None:
    row = feature_row("origin_delays", draw)
    six, two = (landed_in("origin", row, timedelta(hours=hours)) for hours in (6, 2))
    assert row["flights_6h"] == len(six)
    assert row["mean_delay_6h"] == pytest.approx(mean_or_zero(six["arr_delay"]))
    assert row["mean_delay_2h"] == pytest.approx(mean_or_zero(two["arr_delay"]))


@BRUTE
@given(draw=DRAWS)
def test_tail_rows_tell_the_last_landing(draw: int) -> None:
    row = feature_row("tail_history", draw)
    landed = landed_in("tailnum", row, timedelta(days=400))
    newest = landed[landed["landed_at"] == landed["landed_at"].max()]
    assert row["last_arrival_delay"] in ([0.0] if landed.empty else newest["arr_delay"].tolist())
    plane = load_planes().set_index("tailnum").loc[row["tailnum"]]
    assert (row["plane_age"], row["seats"]) == (plane["plane_age"], plane["seats"])


@BRUTE
@given(draw=DRAWS)
def test_rows_left_out_are_ticks_at_which_nothing_changed(draw: int) -> None:
    frame = feature_tables()["origin_delays"]
    tick = pd.Timestamp("2013-01-01T00:00Z") + draw % 17_520 * pd.Timedelta("30min")
    origin = ("EWR", "JFK", "LGA")[draw % 3]
    known = frame[(frame["origin"] == origin) & (frame["event_timestamp"] <= tick)].iloc[-1]
    asked = pd.Series({"origin": origin, "event_timestamp": tick})
    landed = landed_in("origin", asked, timedelta(hours=6))
    assert known["flights_6h"] == len(landed)
    assert known["mean_delay_6h"] == pytest.approx(mean_or_zero(landed["arr_delay"]))


def joined(start: datetime, end: datetime) -> pd.DataFrame:
    """The label table with the newest feature row of each table at scheduled departure."""
    rows = label_table(start, end)
    for name, spec in TABLES.items():
        rows = pd.merge_asof(rows, feature_tables()[name], on="event_timestamp", by=spec.key)
    return rows


def first_of(month: int) -> datetime:
    return datetime(2013, month, 1, 5, tzinfo=UTC)


def test_no_join_from_the_first_flight_on_comes_back_empty() -> None:
    rows = joined(first_of(1), first_of(2))
    assert not rows[list(MODEL_FEATURES)].isna().to_numpy().any()


def test_out_of_time_precision_is_that_of_honest_features() -> None:
    # The figures of a model of January to March; above 0.70 the features would know the future.
    rows = joined(first_of(1), first_of(7))
    train = rows[rows["event_timestamp"] < first_of(4)]
    model = lightgbm.LGBMClassifier(
        n_estimators=200, num_leaves=31, learning_rate=0.05, n_jobs=2, verbose=-1
    ).fit(train[list(MODEL_FEATURES)], train["late"])
    found = []
    for month in (4, 5, 6):
        times = rows["event_timestamp"]
        test = rows[(times >= first_of(month)) & (times < first_of(month + 1))]
        scores = model.predict_proba(test[list(MODEL_FEATURES)])[:, 1]
        found.append(average_precision_score(test["late"], scores))
    assert found == pytest.approx([0.548, 0.512, 0.631], abs=0.015)
