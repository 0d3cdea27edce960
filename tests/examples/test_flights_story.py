"""The parts of the story that need no suite: definitions, driving, watching, reporting."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest

from examples.flights import definitions, report
from examples.flights.data import as_arrow, label_table
from examples.flights.definitions import INPUTS_OF_REQUEST, Pace
from examples.flights.drive import Asked, History, Ledger, Traffic, history_until, newest
from examples.flights.features import MODEL_FEATURES, TABLES, feature_tables
from examples.flights.replay import replay_plan
from examples.flights.story import FAST, FULL, Outcome
from examples.flights.watch import Watch

START = datetime(2013, 6, 3, tzinfo=UTC)


class Suite:
    """Stands in for the SDK: takes everything and remembers it in order."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str, Any]] = []
        self.listings: dict[str, list[Any]] = {}
        self.monitor: dict[str, Any] = {"reference_model_version": ""}

    def ingest(self, source: str, table: Any) -> int:
        self.calls.append(("ingest", source, table))
        return int(table.num_rows)

    def push(self, view: str, table: Any, *, online_only: bool) -> None:
        assert online_only
        self.calls.append(("push", view, table))

    def predict(self, endpoint: str, instances: Any, *, event_times: Any) -> list[Any]:
        self.calls.append(("predict", endpoint, list(instances)))
        return [
            {
                "prediction_id": f"{at.isoformat()}-{number}",
                "outputs": {"score": 0.5},
                "model_version": "models/late-arrival/versions/1",
                "fallback": "",
            }
            for number, at in enumerate(event_times)
        ]

    def record_outcomes(self, outcomes: Any) -> None:
        self.calls.append(("outcomes", "", list(outcomes)))

    def list(self, path: str, field: str) -> list[Any]:
        return list(reversed(self.listings.get(field, [])))

    def get(self, name: str) -> dict[str, Any]:
        return {"name": name, **self.monitor}

    def of(self, kind: str) -> list[Any]:
        return [body for each, _, body in self.calls if each == kind]


def test_definitions_describe_the_tables() -> None:
    made = definitions.feature_definitions()
    sources = {each["name"].partition("/")[2]: each for each in made["data_sources"]}
    for source, table in history_until(datetime(2013, 1, 3, tzinfo=UTC)):
        assert [each["name"] for each in sources[source]["fields"]] == list(table.columns)
        assert all(each["description"] for each in sources[source]["fields"])
    assert {each["owner"] for each in made["feature_views"]} == {definitions.OWNER}
    (service,) = made["feature_services"]
    looked_up = [each.partition(":")[2] for each in service["features"]]
    assert sorted((*looked_up, *INPUTS_OF_REQUEST)) == sorted(MODEL_FEATURES)


def test_the_shares_of_a_rollout_rise_to_all() -> None:
    assert definitions.strategy(Pace())["steps"] == [5, 25, 50, 100]
    retrain = definitions.monitor("trainingSets/x", FULL.pace)["policies"][-1]
    assert retrain["cooldown"] == "2419200s"


@pytest.mark.parametrize("script", [FULL, FAST])
def test_the_story_begins_with_a_window(script: Any) -> None:
    assert script.start.weekday() == 0
    assert script.trained_until <= script.start < script.fault_by < script.end


def test_history_is_handed_over_once_and_whole() -> None:
    suite, ledger = Suite(), Ledger()
    history = History(suite, ledger, START)  # type: ignore[arg-type]
    for hours in (6, 24, 30, 48, 50):
        history.catch_up(START + timedelta(hours=hours))
    history.catch_up(START + timedelta(hours=53), at_once=True)
    end = pd.Timestamp(START + timedelta(hours=53))
    for name in TABLES:
        table = feature_tables()[name]
        known = (table["event_timestamp"] > START) & (table["event_timestamp"] <= end)
        parts = [body for kind, source, body in suite.calls if source == name]
        assert sum(part.num_rows for part in parts) == known.sum()
    labels = label_table(START - timedelta(days=3), START + timedelta(days=4))
    landed = (labels["label_timestamp"] > START) & (labels["label_timestamp"] <= end)
    assert ledger.labelled == landed.sum()


def test_a_tick_pushes_then_asks_then_reports() -> None:
    suite, ledger = Suite(), Ledger()
    plan = replay_plan(START, START + timedelta(days=1), 0.2, step=timedelta(hours=3))
    with Traffic(suite, ledger) as traffic:  # type: ignore[arg-type]
        for tick in plan:
            before = len(suite.calls)
            traffic.serve(tick)
            kinds = [kind for kind, *_ in suite.calls[before:] if kind != "outcomes"]
            assert kinds == sorted(kinds, key=("push", "predict").index)
            if not len(tick.requests):
                assert kinds == []
        traffic.finish()
    assert len(ledger.asked) == plan.totals.requests == sum(map(len, suite.of("predict")))
    reported = [outcome for part in suite.of("outcomes") for outcome in part]
    assert ledger.outcomes == len(reported) == plan.totals.outcomes
    assert set(suite.of("predict")[0][0]) == {"carrier", "route", "origin", "tailnum"} | set(
        INPUTS_OF_REQUEST
    )


def test_a_failing_report_is_not_lost() -> None:
    suite, ledger = Suite(), Ledger()

    def refuse(_: Any) -> None:
        raise OSError("gone")

    suite.record_outcomes = refuse  # type: ignore[method-assign]
    plan = replay_plan(START, START + timedelta(days=1), 0.1, step=timedelta(hours=3))

    def drive() -> None:
        with Traffic(suite, ledger) as traffic:  # type: ignore[arg-type]
            for tick in plan:
                traffic.serve(tick)
            traffic.finish()

    with pytest.raises(OSError, match="gone"):
        drive()


def test_only_the_newest_row_of_an_entity_is_pushed() -> None:
    first = pd.DataFrame({"carrier": ["AA", "UA"], "flights_7d": [1, 1]})
    second = pd.DataFrame({"carrier": ["UA"], "flights_7d": [2]})
    rows = newest("carrier_delays", [first, second])
    assert sorted(zip(rows["carrier"], rows["flights_7d"], strict=True)) == [("AA", 1), ("UA", 2)]
    assert as_arrow(rows).num_rows == 2


def step(name: str, state: str) -> dict[str, Any]:
    return {
        "step": name,
        "state": state,
        "detail": "fine",
        "start_time": "2026-01-01T00:00:00Z",
        "end_time": "2026-01-01T00:00:01.500000Z",
    }


def test_the_watch_tells_each_thing_once() -> None:
    suite, said = Suite(), []
    watch = Watch(suite, lambda kind, text: said.append((kind, text)))  # type: ignore[arg-type]
    run = {
        "name": "pipelines/p/runs/0123456789",
        "state": "STATE_RUNNING",
        "reason": "",
        "trigger": {"kind": "KIND_DRIFT"},
        "window_end": "2013-06-17T00:00:00Z",
        "steps": [step("validate", "STATE_DONE"), step("train", "STATE_RUNNING")],
    }
    suite.listings["runs"] = [run]
    watch.poll(at_once=True)
    watch.poll(at_once=True)
    assert [kind for kind, _ in said] == ["run", "step"]
    assert "drift, data up to 17 Jun" in said[0][1]
    assert watch.training
    run |= {"state": "STATE_REFUSED", "reason": "no gain; and more", "steps": run["steps"][:1]}
    watch.poll(at_once=True)
    assert said[2:] == [("run", "run …456789 refused: no gain")]
    assert not watch.training


def test_the_watch_tells_how_a_rollout_goes() -> None:
    suite, said = Suite(), []
    watch = Watch(suite, lambda kind, text: said.append(text))  # type: ignore[arg-type]
    event = {"step": "shadow", "decision": "rolled_back", "reasons": ["worse"], "samples": "230"}
    suite.listings["rollouts"] = [
        {
            "name": "endpoints/e/rollouts/r",
            "model_version": "models/m/versions/3",
            "state": "STATE_ROLLED_BACK",
            "events": [event],
        }
    ]
    watch.poll(at_once=True)
    watch.poll(at_once=True)
    assert said == ["v3 shadow: rolled back after 230 labels — worse"]
    assert not watch.rolling_out
    assert watch.promoted() == []


def test_the_watch_tells_whose_the_reference_is() -> None:
    suite, said = Suite(), []
    watch = Watch(suite, lambda kind, text: said.append((kind, text)))  # type: ignore[arg-type]
    suite.monitor = {"reference_model_version": "models/m/versions/1"}
    watch.poll(at_once=True)
    assert said == [("alert", "drift is held against the data of v1 from the first window on")]
    suite.monitor["follow_status"] = "to follow models/m/versions/4"
    watch.poll(at_once=True)
    assert watch.following
    assert len(said) == 1
    suite.monitor = {
        "reference_model_version": "models/m/versions/4",
        "reference_since": "2013-07-15T00:00:00Z",
    }
    watch.poll(at_once=True)
    watch.poll(at_once=True)
    assert said[1:] == [("alert", "drift is held against the data of v4 from 15 Jul on")]
    assert not watch.following
    assert [each["reference_model_version"][-1] for each in watch.references] == ["1", "4"]


def test_average_precision_is_that_of_the_textbook() -> None:
    labels = np.array([0, 1, 1, 0, 1])
    scores = np.array([0.1, 0.9, 0.4, 0.6, 0.3])
    assert report.average_precision(labels, scores) == pytest.approx((1 + 2 / 3 + 3 / 4) / 3)


def test_own_quality_counts_labelled_predictions_by_the_month_of_their_week() -> None:
    ledger = Ledger()
    for number, late in enumerate([1, 0, None]):
        ledger.asked[str(number)] = Asked(
            str(number),
            0.9 - number / 10,
            "models/m/versions/2",
            datetime(2013, 7, 2, tzinfo=UTC),
            late,
        )
    assert report.own_quality(ledger) == {("July", "v2"): 1.0}
    ledger.asked["0"].departure = datetime(2013, 9, 1, tzinfo=UTC)  # a Sunday
    assert set(report.own_quality(ledger)) == {("July", "v2"), ("August", "v2")}


def test_what_did_not_happen_is_said() -> None:
    outcome = Outcome()
    assert len(outcome.missing) == 6
    outcome.rollouts = [{"state": "STATE_PROMOTED", "model_version": "models/late/versions/2"}]
    outcome.references = [{"reference_model_version": "models/late/versions/1"}]
    assert "the drift reference followed a promotion" in outcome.missing
    outcome.references.append({"reference_model_version": "models/late/versions/2"})
    assert "the drift reference followed a promotion" not in outcome.missing
    outcome.broken_run = {"state": "STATE_REFUSED"}
    assert "the gate refused the broken challenger" not in outcome.missing
