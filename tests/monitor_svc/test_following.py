"""The reference goes with the champion, once, by event time, whoever is away or dies."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from monitor_svc.domain.alerts import AlertState
from monitor_svc.domain.monitors import Monitor, Response
from monitor_svc.domain.profiles import Labels
from monitor_svc.messages import monitor_out
from monitor_svc.service import Follower
from monitor_svc.service.following import LEASE
from monitor_svc.service.ports import PredictionRows, ReferenceRows, WindowState
from service_kit.errors import Internal, NotFound, Unavailable
from tests.monitor_svc.conftest import (
    DAY,
    START,
    VERSION,
    House,
    monitor,
    predictions,
    reference_rows,
)

SECOND, THIRD = "models/late/versions/2", "models/late/versions/3"
COLD, WARM = "trainingSets/cold", "trainingSets/warm"


def _warm() -> ReferenceRows:
    rows = reference_rows(seed=3)
    temp = predictions(5_000, 0, shift=2.0).columns["temp"]
    return replace(rows, columns={**rows.columns, "temp": temp})


@pytest.fixture
def following(house: House) -> House:
    house.training_sets.sets = {COLD: reference_rows(), WARM: _warm()}
    house.lineages.sets = {VERSION: COLD, SECOND: WARM, THIRD: ""}
    house.create(monitor(reference_training_set=COLD, follow_champion=True), None)
    return house


def _day(
    house: House, day: int, shift: float, version: str = VERSION, count: int = 400
) -> PredictionRows:
    rows = predictions(count, START + day * DAY, shift=shift, seed=day, version=version)
    house.predict(rows)
    return rows


def _windows(house: House) -> list[WindowState]:
    with house.transactions() as store:
        return house.monitoring.windows(store, "drift", 50, "")[::-1]


def _drifted(house: House) -> list[tuple[int, int, bool]]:
    return [
        ((w.start_us - START) // DAY, w.epoch, any(f.drifted for f in w.findings))
        for w in _windows(house)
    ]


def _promoted(house: House) -> None:
    """Three warm days by the first version, which alarm, and the second one from day 3 on."""
    for day in range(3):
        _day(house, day, 2.0)
    for day in (3, 4):
        _day(house, day, 2.0, SECOND)


def test_the_first_version_is_known_by_its_lineage(following: House):
    _day(following, 0, 0.0)
    assert following.follower.run_once() == 0
    _day(following, 1, 0.0)
    assert following.follower.run_once() == 1
    known = following.monitor()
    assert (known.reference_version, known.epoch, known.since_us) == (VERSION, 1, None)
    assert known.following is None
    assert following.follower.run_once() == 0


def test_a_promotion_moves_the_reference_and_ends_the_alert(following: House):
    _day(following, 0, 0.0)
    _day(following, 1, 0.0)
    following.follower.run_once()
    for day in (2, 3, 4):
        _day(following, day, 2.0)
    _day(following, 5, 2.0, SECOND)
    (alert,) = following.alerts()
    assert alert.state is AlertState.OPEN
    assert following.monitor().following is None
    _day(following, 6, 2.0, SECOND)
    assert following.monitor().reference_version == VERSION
    assert following.follower.run_once() == 1
    moved = following.monitor()
    assert (moved.reference_version, moved.reference_training_set) == (SECOND, WARM)
    # The sixth day has begun under the old reference, and stays with it.
    assert moved.since_us == START + 7 * DAY
    (alert,) = following.alerts()
    assert alert.state is AlertState.RESOLVED
    assert alert.comment == f"the reference followed the champion: it is that of {SECOND} now"
    for day in (7, 8, 9, 10):
        _day(following, day, 2.0, SECOND)
    assert _drifted(following) == [
        (0, 1, False), (1, 1, False), (2, 1, True), (3, 1, True), (4, 1, True),
        (5, 1, True), (6, 1, True), (7, 2, False), (8, 2, False), (9, 2, False),
    ]  # fmt: skip
    assert len(following.alerts()) == 1
    # Cold is a drift now.
    for day in (11, 12, 13):
        _day(following, day, 0.0, SECOND)
    assert len(following.alerts()) == 2
    assert following.follower.run_once() == 0


def test_what_the_outgrown_reference_sees_asks_for_nothing(following: House):
    _day(following, 0, 0.0)
    _day(following, 1, 0.0)
    following.follower.run_once()
    # The window that shows the change drifts, as do the next ones; two in a row would alarm.
    _day(following, 2, 2.0)
    _day(following, 3, 2.0, SECOND)
    _day(following, 4, 2.0, SECOND)
    assert [window for window, _, drifted in _drifted(following) if drifted] == [2, 3]
    following.follower.run_once()
    for day in (5, 6, 7):
        _day(following, day, 2.0, SECOND)
    assert following.alerts() == []
    assert following.executors[Response.RETRAIN].asked == []


def test_late_rows_of_the_time_before_stay_with_the_old_reference(house: House):
    house.training_sets.sets = {COLD: reference_rows(), WARM: _warm()}
    house.lineages.sets = {VERSION: COLD, SECOND: WARM}
    house.create(
        monitor(
            reference_training_set=COLD, follow_champion=True, allowed_lateness=timedelta(days=2)
        ),
        None,
    )
    for day in range(4):
        _day(house, day, 2.0, SECOND)
    house.follower.run_once()
    moved = house.monitor()
    assert moved.since_us == START + 4 * DAY
    _day(house, 4, 2.0, SECOND)
    # Of the third day, which is open still: more rows, and such of a city never heard of.
    late = predictions(50, START + 3 * DAY, shift=2.0, seed=33, version=SECOND)
    house.predict(replace(late, columns={**late.columns, "carrier": Labels(["new"] * 50)}))
    with house.transactions() as store:
        old = store.windows(replace(moved, epoch=1), [START + 3 * DAY, START + 4 * DAY])
        new = store.windows(moved, [START + 3 * DAY, START + 4 * DAY])
    assert {start: window.row_count for start, window in old.items()} == {START + 3 * DAY: 450}
    assert {start: window.row_count for start, window in new.items()} == {START + 4 * DAY: 400}


def test_split_traffic_and_shadows_move_nothing(following: House):
    _day(following, 0, 0.0)
    _day(following, 1, 0.0)
    following.follower.run_once()
    for day in (2, 3):
        _day(following, day, 0.0, count=320)
        rows = predictions(80, START + day * DAY, seed=50 + day, version=SECOND)
        following.predict(rows, replace(rows, ids=[f"s{n}" for n in rows.ids], shadow=True))
        shadow = predictions(4_000, START + day * DAY, seed=70 + day, version=SECOND, shadow=True)
        following.predict(shadow)
    _day(following, 4, 0.0)
    assert following.follower.run_once() == 0
    assert following.monitor().reference_version == VERSION


def test_small_windows_say_nothing(following: House):
    for day in range(4):
        _day(following, day, 0.0, SECOND, count=60)
    assert following.follower.run_once() == 0
    assert following.monitor().following is None


def test_a_monitor_that_does_not_follow_keeps_its_reference(house: House):
    house.create(monitor(), reference_rows())
    for day in range(4):
        _day(house, day, 0.0, SECOND)
    assert house.follower.run_once() == 0
    assert house.monitor().reference_version == ""


def test_a_registry_that_is_away_is_asked_again_and_holds_up_nothing(following: House):
    following.lineages.failures = [Unavailable("PEER_AWAY", "the registry is away")] * 8
    following.lineages.failures.append(Internal("X", "odd"))
    for day in range(2):
        _day(following, day, 0.0)
    for tries in range(1, 10):
        assert following.follower.run_once() == 1
        assert following.follower.run_once() == 0
        waiting = following.monitor().following
        assert waiting is not None
        assert waiting.attempts == tries
        assert waiting.due is not None
        following.clock.advance(waiting.due - following.clock.now())
    status = monitor_out(following.monitor()).follow_status
    assert status == (f"{VERSION} answers; its training set is to be read (tried 9 times: odd)")
    # Meanwhile windows close and alerts are raised by the reference there is.
    for day in (2, 3, 4):
        _day(following, day, 2.0)
    assert [a.state for a in following.alerts()] == [AlertState.OPEN]
    assert following.follower.run_once() == 1
    assert following.monitor().reference_version == VERSION
    assert monitor_out(following.monitor()).follow_status == ""


def test_the_pause_between_tries_grows_to_five_minutes(following: House):
    following.lineages.failures = [Unavailable("PEER_AWAY", "away")] * 20
    for day in range(2):
        _day(following, day, 0.0)
    pauses = []
    for _ in range(20):
        following.follower.run_once()
        waiting = following.monitor().following
        assert waiting is not None
        assert waiting.due is not None
        pauses.append((waiting.due - following.clock.now()).total_seconds())
        following.clock.advance(waiting.due - following.clock.now())
    assert pauses[:3] == [1.0, 2.0, 4.0]
    assert pauses == sorted(pauses)
    assert pauses[-1] == 300.0


def test_a_version_without_a_training_set_keeps_the_reference_and_says_so(following: House):
    _day(following, 0, 0.0)
    _day(following, 1, 0.0)
    following.follower.run_once()
    for day in range(2, 6):
        _day(following, day, 2.0, THIRD)
    assert following.follower.run_once() == 1
    assert following.follower.run_once() == 0
    kept = following.monitor()
    assert (kept.reference_version, kept.reference_training_set, kept.epoch) == (VERSION, COLD, 1)
    assert monitor_out(kept).follow_status == (
        f"{THIRD} answers; the reference is kept: its lineage names no training set"
    )
    # It is asked once, and the old reference goes on raising alerts.
    asked = following.lineages.asked
    for day in range(6, 9):
        _day(following, day, 2.0, THIRD)
    following.follower.run_once()
    assert following.lineages.asked == asked
    assert [a.state for a in following.alerts()] == [AlertState.OPEN]
    # A rollback to the version that it belongs to settles the matter.
    for day in range(9, 11):
        _day(following, day, 2.0)
    assert monitor_out(following.monitor()).follow_status == ""


@pytest.mark.parametrize("missing", ["version", "feature"])
def test_what_cannot_be_read_keeps_the_reference_and_says_so(house: House, missing: str):
    house.training_sets.sets = {COLD: reference_rows(), WARM: _warm()}
    house.lineages.sets = {SECOND: WARM}
    if missing == "version":
        house.lineages.failures = [NotFound("VERSION_NOT_FOUND", "no such version")]
    else:
        house.training_sets.sets[WARM] = replace(_warm(), columns={"hour": _warm().columns["hour"]})
    watched = monitor(reference_training_set=COLD, follow_champion=True, features=("temp",))
    house.create(watched, None)
    for day in range(2):
        _day(house, day, 0.0, SECOND)
    house.follower.run_once()
    reason = {
        "version": "no such version",
        "feature": "1 of the features are not in the reference",
    }[missing]
    status = monitor_out(house.monitor()).follow_status
    assert status == f"{SECOND} answers; the reference is kept: {reason}"
    house.clock.advance(timedelta(days=1))
    assert house.follower.run_once() == 0


class _Died(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("where", ["before the lineage", "before the switch", "within the switch"])
def test_a_follower_that_dies_is_followed_by_one_that_does_it_once(
    following: House, where: str, monkeypatch: pytest.MonkeyPatch
):
    _promoted(following)

    def die(*_: object) -> None:
        raise _Died

    with monkeypatch.context() as patched:
        if where == "before the lineage":
            patched.setattr(following.lineages, "training_set", die)
        elif where == "before the switch":
            patched.setattr(following.monitoring, "follow", die)
        else:
            begin = following.monitoring._begin_epoch

            def begin_and_die(*given: object) -> Monitor:
                begin(*given)  # type: ignore[arg-type]
                raise _Died

            patched.setattr(following.monitoring, "_begin_epoch", begin_and_die)
        with pytest.raises(_Died):
            following.follower.run_once()
    assert following.monitor().epoch == 1
    assert [a.state for a in following.alerts()] == [AlertState.OPEN]
    # Another process, which has nothing but the database.
    heir = Follower(
        following.transactions, following.monitoring, following.lineages, following.clock
    )
    assert heir.run_once() == 0
    following.clock.advance(LEASE)
    assert heir.run_once() == 1
    assert (following.monitor().epoch, following.monitor().reference_version) == (2, SECOND)
    assert [a.state for a in following.alerts()] == [AlertState.RESOLVED]
    assert heir.run_once() == 0


def test_a_person_who_changes_the_monitor_meanwhile_is_not_overruled(following: House):
    _promoted(following)
    read = following.monitor()
    training_set = following.lineages.training_set

    def changed_meanwhile(version: str) -> str:
        with following.transactions() as store:
            current = following.monitoring.get(store, "drift")
            following.monitoring.update(store, current, replace(current, min_rows=50), None)
        return training_set(version)

    following.lineages.training_set = changed_meanwhile  # type: ignore[method-assign]
    assert following.follower.run_once() == 1
    assert following.monitor().epoch == read.epoch
    following.lineages.training_set = training_set  # type: ignore[method-assign]
    assert following.follower.run_once() == 1
    now = following.monitor()
    assert (now.reference_version, now.min_rows) == (SECOND, 50)


def test_who_stops_following_is_left_alone(following: House):
    _promoted(following)
    current = following.monitor()
    assert current.following is not None
    with following.transactions() as store:
        stopped = replace(current, follow_champion=False)
        following.monitoring.update(store, current, stopped, None)
    following.clock.advance(timedelta(days=1))
    assert following.follower.run_once() == 0
    assert following.monitor().reference_training_set == COLD


def test_a_reference_given_by_hand_belongs_to_who_answers_then(following: House):
    for day in (0, 1):
        _day(following, day, 0.0)
    following.follower.run_once()
    current = following.monitor()
    by_hand = replace(current, reference_training_set="")
    reference = following.monitoring.prepare_reference(by_hand, reference_rows(seed=8))
    with following.transactions() as store:
        changed = following.monitoring.update(store, current, by_hand, reference)
    assert (changed.reference_version, changed.since_us) == ("", START + DAY)
    for day in (2, 3):
        _day(following, day, 0.0, SECOND)
    assert following.follower.run_once() == 0
    assert following.monitor().reference_version == SECOND
    assert following.monitor().reference_training_set == ""


def test_an_empty_monitor_gets_the_reference_of_who_answers(house: House):
    house.training_sets.sets = {WARM: _warm()}
    house.lineages.sets = {SECOND: WARM}
    house.create(monitor(follow_champion=True), None)
    for day in range(3):
        _day(house, day, 2.0, SECOND)
    house.follower.run_once()
    assert house.monitor().reference_rows == 5_000
    for day in range(3, 7):
        _day(house, day, 2.0, SECOND)
    assert _drifted(house)[3:] == [(3, 2, False), (4, 2, False), (5, 2, False)]


def test_a_far_future_row_does_not_put_off_the_switch(following: House):
    _promoted(following)
    following.predict(predictions(1, START + 120 * DAY, seed=500, version=SECOND))
    following.follower.run_once()
    moved = following.monitor()
    assert (moved.reference_version, moved.since_us) == (SECOND, START + 5 * DAY)
    # Its window belongs to the new epoch from here on, and is not listed as one of the old.
    following.predict(predictions(2, START + 120 * DAY, seed=501, version=SECOND))
    with following.transactions() as store:
        ahead = [w for w in store.open_windows("drift", None) if w.start_us >= moved.since_us]
    assert [(w.epoch, w.row_count) for w in ahead] == [(2, 2)]
