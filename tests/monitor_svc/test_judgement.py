"""From drift to an alert to what is done about it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest
from sqlalchemy import select

from monitor_svc.domain.alerts import ActionState, AlertKind, AlertState
from monitor_svc.domain.monitors import DetectorSpec, Policy, Response, Severity
from monitor_svc.service import Retention
from monitor_svc.service.ports import OutcomeRow
from monitor_svc.storage.tables import outbox
from service_kit.errors import Conflict, FailedPrecondition, Unavailable
from tests.monitor_svc.conftest import DAY, START, House, monitor, predictions, reference_rows


def _run(house: House, shifts: list[float], first: int = 0) -> None:
    """A day of predictions for each shift, and one row of the next day to close the last."""
    for day, shift in enumerate(shifts, first):
        house.predict(predictions(400, START + day * DAY, shift=shift, seed=day))
    house.predict(predictions(1, START + (first + len(shifts)) * DAY, seed=999 + first))


def test_no_drift_no_alert(house: House):
    house.create(monitor(), reference_rows())
    _run(house, [0.0] * 5)
    assert house.alerts() == []


def test_one_window_does_nothing_and_two_raise_one_alert(house: House):
    house.create(monitor(), reference_rows())
    _run(house, [0.0, 2.0])
    assert house.alerts() == []
    house.predict(predictions(400, START + 2 * DAY, shift=2.0, seed=2))
    _run(house, [2.0], first=3)
    (alert,) = house.alerts()
    assert alert.kind is AlertKind.DRIFT
    assert alert.severity is Severity.CRITICAL
    assert alert.features == ("temp",)
    assert "temp: PSI" in alert.summary
    assert "windows" in alert.summary
    assert alert.event_us == START + 3 * DAY
    with house.engine.connect() as connection:
        sent = connection.execute(select(outbox.c.stream, outbox.c.key)).all()
    assert [tuple(row) for row in sent] == [("alerts", f"monitors/drift/alerts/{alert.id}")]


def test_responses_are_done_once_and_cool_down_in_event_time(house: House):
    house.create(monitor(), reference_rows())
    _run(house, [2.0] * 3)
    assert house.responder.run_once() == 2
    assert house.responder.run_once() == 0
    (alert,) = house.alerts()
    assert house.executors[Response.RETRAIN].asked == [alert.id]
    assert house.executors[Response.NOTIFY].asked == [alert.id]
    _run(house, [2.0] * 4, first=4)
    assert house.responder.run_once() == 0
    # Seven days after the first one it may happen again, under another key.
    _run(house, [2.0] * 3, first=9)
    house.responder.run_once()
    assert house.executors[Response.RETRAIN].asked == [alert.id, f"{alert.id}-2"]
    assert {a.state for a in house.actions()} == {ActionState.DONE}
    assert len(house.alerts()) == 1


def test_a_second_alert_within_the_cooldown_is_held_and_says_so(house: House):
    house.create(monitor(policies=(Policy(Severity.WARNING, Response.NOTIFY),)), reference_rows())
    _run(house, [2.0, 2.0, 0.0, 0.0, 0.0, 2.0, 2.0])
    assert [a.state for a in house.alerts()] == [AlertState.OPEN, AlertState.RESOLVED]
    done, held = house.actions()
    assert (done.state, held.state) == (ActionState.PENDING, ActionState.HELD)
    assert "7 days" in held.result


def test_failures_are_retried_or_given_up(house: House):
    house.create(monitor(), reference_rows())
    retrain, notify = house.executors[Response.RETRAIN], house.executors[Response.NOTIFY]
    retrain.failures = [Unavailable("X", "away"), Conflict("Y", "busy"), RuntimeError("odd")]
    notify.failures = [FailedPrecondition("ADDRESS_REFUSED", "not public")]
    _run(house, [2.0, 2.0])
    states = []
    for _ in range(6):
        house.responder.run_once()
        states.append(sorted(a.state for a in house.actions()))
        house.clock.advance(timedelta(minutes=10))
    assert states[0] == [ActionState.FAILED, ActionState.PENDING]
    assert states[-1] == [ActionState.DONE, ActionState.FAILED]
    assert len(retrain.asked) == 1
    failed = next(a for a in house.actions() if a.state is ActionState.FAILED)
    assert failed.result == "ADDRESS_REFUSED: not public"


def test_a_responder_that_died_is_followed_by_one_with_the_same_key(house: House):
    house.create(monitor(), reference_rows())
    _run(house, [2.0, 2.0])
    with house.transactions() as store:
        now = house.clock.now()
        claimed = store.claim_actions(now, now + timedelta(seconds=60), 10)
    assert len(claimed) == 2
    assert house.responder.run_once() == 0
    house.clock.advance(timedelta(seconds=61))
    assert house.responder.run_once() == 2
    assert house.executors[Response.RETRAIN].asked == [house.alerts()[0].id]


def test_an_action_keeps_why_it_was_asked_for(house: House):
    house.create(monitor(), reference_rows())
    _run(house, [2.0, 2.0])
    first = house.alerts()[0].summary
    _run(house, [2.0, 2.0, 2.0], first=3)
    assert house.alerts()[0].summary != first
    assert {action.why for action in house.actions()} == {first}


def test_small_windows_are_skipped(house: House):
    house.create(monitor(min_rows=1_000), reference_rows())
    _run(house, [3.0] * 3)
    with house.transactions() as store:
        windows = house.monitoring.windows(store, "drift", 10, "")
    assert [w.skipped for w in windows] == [True] * 3
    assert house.alerts() == []


def test_a_new_reference_ends_the_alert_and_starts_anew(house: House):
    created = house.create(monitor(), reference_rows())
    _run(house, [2.0, 2.0])
    assert house.alerts()[0].state is AlertState.OPEN
    rows = reference_rows(seed=3)
    warm = predictions(5_000, 0, shift=2.0).columns["temp"]
    moved = replace(rows, columns={**rows.columns, "temp": warm})
    reference = house.monitoring.prepare_reference(created, moved)
    with house.transactions() as store:
        updated = house.monitoring.update(
            store, house.monitoring.get(store, "drift"), created, reference
        )
    assert updated.epoch == 2
    with pytest.raises(Conflict), house.transactions() as store:
        house.monitoring.update(store, created, created, None)
    assert house.alerts()[0].state is AlertState.RESOLVED
    _run(house, [2.0, 2.0, 2.0], first=4)
    assert len(house.alerts()) == 1
    _run(house, [0.0, 0.0], first=8)
    assert len(house.alerts()) == 2


def test_a_removed_detector_does_not_stop_the_stream(house: House):
    created = house.create(monitor(), reference_rows())
    with house.transactions() as store:
        store.save_monitor(replace(created, detectors=(DetectorSpec("gone"),)))
    _run(house, [2.0, 2.0])
    assert house.alerts() == []


def test_evaluation_raises_an_alert_about_performance(house: House):
    policies = (
        Policy(Severity.WARNING, Response.EVALUATE),
        Policy(Severity.CRITICAL, Response.ROLLBACK),
    )
    house.create(monitor(policies=policies, persistence_of=2), reference_rows())
    rng = np.random.default_rng(0)
    for day in range(6):
        shift = 1.0 if day >= 4 else 0.0
        rows = predictions(400, START + day * DAY, shift=shift, seed=day)
        house.predict(rows)
        chance = 1 - rows.scores if day >= 4 else rows.scores
        labels = (rng.random(400) < chance).astype(float).tolist()
        with house.transactions() as store:
            outcomes = [OutcomeRow(n, y, START) for n, y in zip(rows.ids, labels, strict=True)]
            house.ingestion.outcomes(store, "label", outcomes)
    house.predict(predictions(1, START + 6 * DAY, seed=77))
    assert {a.kind for a in house.alerts()} == {AlertKind.DRIFT}
    while house.responder.run_once():
        pass
    kinds = {a.kind: a for a in house.alerts()}
    assert "worse than before" in kinds[AlertKind.PERFORMANCE].summary
    evaluated = next(a for a in house.actions() if a.policy.response is Response.EVALUATE)
    assert "PR-AUC" in evaluated.result
    assert house.executors[Response.ROLLBACK].asked == [kinds[AlertKind.PERFORMANCE].id]


def test_retention_forgets_old_labels_and_keeps_reports(house: House):
    created = house.create(monitor(), reference_rows())
    for day in (0, 1, 40):
        house.predict(predictions(100, START + day * DAY, seed=day))
    retention = Retention(house.transactions, timedelta(days=30), house.clock)
    assert retention.run_once() == 200
    assert retention.run_once() == 0
    with house.transactions() as store:
        assert sum(q.rows for q in store.quality_of(created).values()) == 300


def test_outcomes_of_predictions_that_nobody_monitors_are_forgotten_in_time(house: House):
    house.create(monitor(), reference_rows())
    rows = predictions(3, START, seed=1)
    house.predict(rows)
    retention = Retention(house.transactions, timedelta(days=30), house.clock)
    given = {"stray": START, "stray-of-the-future": START + 4_000 * DAY, rows.ids[0]: START}

    def take(names: Iterable[str]) -> None:
        with house.transactions() as store:
            outcomes = [OutcomeRow(name, 1.0, given[name]) for name in names]
            house.ingestion.outcomes(store, "label", outcomes)

    def kept() -> set[str]:
        retention.run_once()
        with house.transactions() as store:
            return set(store.outcomes("label", list(given)))

    # What times they tell is no matter: one far ahead takes none of the others along.
    take(given)
    assert kept() == set(given)
    house.clock.advance(timedelta(days=29))
    take(["stray"])
    house.clock.advance(timedelta(days=2))
    assert kept() == {"stray", rows.ids[0]}
    house.clock.advance(timedelta(days=29))
    assert kept() == {rows.ids[0]}
