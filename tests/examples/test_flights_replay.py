"""The replay plan: nothing lost, nothing early, the same each time."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pandas as pd
import pytest

from examples.flights.data import flights_between, label_table
from examples.flights.features import TABLES, feature_tables
from examples.flights.replay import ReplayPlan, Tick, replay_plan

START, END = datetime(2013, 4, 1, 10, tzinfo=UTC), datetime(2013, 4, 8, 10, tzinfo=UTC)
HALF_HOUR = timedelta(minutes=30)


def all_requests(plan: ReplayPlan) -> pd.DataFrame:
    return pd.concat([tick.requests for tick in plan], ignore_index=True)


def all_outcomes(plan: ReplayPlan) -> pd.DataFrame:
    return pd.concat([tick.outcomes for tick in plan], ignore_index=True)


def test_every_flight_of_the_span_is_asked_for_once_in_its_tick() -> None:
    plan = replay_plan(START, END)
    requests = all_requests(plan)
    assert requests["flight_id"].tolist() == flights_between(START, END)["flight_id"].tolist()
    for tick in plan:
        assert (
            tick.requests["event_timestamp"]
            .between(tick.time, tick.time + HALF_HOUR, inclusive="left")
            .all()
        )


def test_outcomes_come_when_the_asked_for_flights_land_and_not_before() -> None:
    plan = replay_plan(START, END, sample=0.3, seed=5)
    asked: set[str] = set()
    for tick in plan:
        asked |= set(tick.requests["flight_id"])
        assert set(tick.outcomes["flight_id"]) <= asked
        assert (
            tick.outcomes["label_timestamp"]
            .between(tick.time, tick.time + HALF_HOUR, inclusive="left")
            .all()
        )
    labels = label_table(START, END).set_index("flight_id")
    expected = labels[labels.index.isin(asked) & (labels["label_timestamp"] < pd.Timestamp(END))]
    outcomes = all_outcomes(plan).set_index("flight_id")
    assert outcomes["late"].sort_index().equals(expected["late"].sort_index())
    assert 0 < len(outcomes) < len(asked)


def test_pushed_features_equal_the_point_in_time_join_at_departure() -> None:
    plan = replay_plan(START, START + timedelta(days=2), sample=0.5)
    for name, spec in TABLES.items():
        table = feature_tables()[name]
        online = online_at(table, spec.key)
        served = serve(plan, name, spec.key, online)
        columns = [spec.key, *spec.features]
        joined = pd.merge_asof(all_requests(plan), table, on="event_timestamp", by=spec.key)
        pd.testing.assert_frame_equal(
            served[columns].reset_index(drop=True), joined[columns], check_dtype=False
        )


def online_at(table: pd.DataFrame, key: str) -> dict[str, pd.Series]:
    known = table[table["event_timestamp"] <= pd.Timestamp(START)].drop_duplicates(key, keep="last")
    return {row[key]: row for _, row in known.iterrows()}


def serve(plan: ReplayPlan, name: str, key: str, online: dict[str, pd.Series]) -> pd.DataFrame:
    """What an online store that takes the ticks' pushes answers to the ticks' requests."""
    answers: list[pd.Series] = []
    for tick in plan:
        if name in tick.features:
            online.update({row[key]: row for _, row in tick.features[name].iterrows()})
        answers += [online[entity] for entity in tick.requests[key]]
    return pd.DataFrame(answers)


@pytest.mark.parametrize("hours", [0.5, 3, 50])
def test_totals_are_known_ahead(hours: float) -> None:
    plan = replay_plan(START, END, sample=0.2, seed=1, step=timedelta(hours=hours))
    ticks: Sequence[Tick] = list(plan)
    totals = plan.totals
    assert totals.ticks == len(plan) == len(ticks)
    assert totals.requests == sum(len(tick.requests) for tick in ticks) > 500
    assert totals.outcomes == sum(len(tick.outcomes) for tick in ticks) > 500
    assert totals.feature_rows == sum(
        len(rows) for tick in ticks for rows in tick.features.values()
    )


def test_a_long_step_pushes_the_newest_row_of_each_entity() -> None:
    step = timedelta(hours=6)
    for tick in replay_plan(START, START + timedelta(days=2), sample=0.1, step=step):
        for name, rows in tick.features.items():
            table, key, now = feature_tables()[name], TABLES[name].key, pd.Timestamp(tick.time)
            times = table["event_timestamp"]
            known = table[(times > now - step) & (times <= now)].groupby(key)
            newest = known.tail(1).sort_values(key, ignore_index=True)
            pd.testing.assert_frame_equal(rows.sort_values(key, ignore_index=True), newest)


def test_samples_are_repeatable_nested_and_independent_of_the_span() -> None:
    whole = all_requests(replay_plan(START, END, sample=0.4, seed=3))
    again = all_requests(replay_plan(START, END, sample=0.4, seed=3))
    pd.testing.assert_frame_equal(whole, again)
    smaller = all_requests(replay_plan(START, END, sample=0.1, seed=3))
    assert set(smaller["flight_id"]) < set(whole["flight_id"])
    middle = START + timedelta(days=3)
    parts = [replay_plan(a, b, 0.4, 3) for a, b in ((START, middle), (middle, END))]
    assert pd.concat(map(all_requests, parts), ignore_index=True).equals(whole)
    other = all_requests(replay_plan(START, END, sample=0.4, seed=4))
    assert set(other["flight_id"]) != set(whole["flight_id"])


def test_only_the_named_tables_are_pushed() -> None:
    plan = replay_plan(START, END, 0.1, tables=["origin_delays"])
    assert {name for tick in plan for name in tick.features} == {"origin_delays"}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"sample": 0.0}, "sample"),
        ({"sample": 1.5}, "sample"),
        ({"sample": float("nan")}, "sample"),
        ({"end": START}, "start"),
        ({"start": START.replace(tzinfo=None)}, "start"),
        ({"step": timedelta()}, "step"),
        ({"tables": ["nothing"]}, "tables"),
    ],
)
def test_bad_arguments_are_named(change: dict[str, object], named: str) -> None:
    arguments: dict[str, object] = {"start": START, "end": END, **change}
    with pytest.raises(ValueError, match=named):
        replay_plan(**arguments)  # type: ignore[arg-type]
