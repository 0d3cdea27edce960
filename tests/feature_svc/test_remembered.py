"""What is remembered of the online store: how much, for how long, and what it stands for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_svc.domain.online import layout
from feature_svc.domain.online.cells import Reply
from feature_svc.domain.online.found import Status
from feature_svc.domain.online.plan import Command
from feature_svc.domain.online.rows import OnlineRow, encode_rows
from feature_svc.service import (
    CurrentDefinitions,
    OnlineFeatures,
    OnlineReads,
    RememberedReplies,
    Wanted,
    reading,
    remembered,
)
from service_kit.clock import SystemClock
from service_kit.errors import DomainError, InvalidArgument, Unavailable
from tests.feature_svc.examples import at, definitions, delays
from tests.feature_svc.test_frame_port import micros

#: Of one reply below, by names of four characters.
SIZE = remembered._REPLY + 4 + 2 * remembered._CELL + 4


class Time:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def commands(*names: str) -> list[Command]:
    return [Command(name.encode(), (b"a", b"b")) for name in names]


def replies(*names: str) -> list[Reply]:
    return [[name.encode(), None] for name in names]


def note(memory: RememberedReplies, asked: list[Command], said: Sequence[Reply]) -> None:
    memory.note(asked, said, memory.writes)


def test_what_was_read_is_recalled_all_or_nothing() -> None:
    memory = RememberedReplies(1 << 20, 60)
    note(memory, commands("x", "y"), replies("x", "y"))
    assert memory.recall(commands("y", "x", "y")) == replies("y", "x", "y")
    assert memory.recall(commands("x", "z")) is None
    note(memory, commands("x"), replies("new"))
    assert memory.recall(commands("x")) == replies("new")
    assert memory.recall([]) == []


def test_other_fields_of_the_same_entity_are_another_question() -> None:
    memory = RememberedReplies(1 << 20, 60)
    note(memory, commands("x"), replies("x"))
    assert memory.recall([Command(b"x", (b"a",))]) is None


@pytest.mark.parametrize(("most", "age"), [(0, 60), (1 << 20, 0)])
def test_it_can_be_turned_off(most: int, age: float) -> None:
    memory = RememberedReplies(most, age)
    note(memory, commands("x"), replies("x"))
    assert memory.recall(commands("x")) is None


@given(st.lists(st.floats(0, 40), max_size=20))
def test_nothing_is_older_than_it_may_be(steps: list[float]) -> None:
    """And what was read within half of that is there."""
    clock = Time()
    memory = RememberedReplies(1 << 20, 60, clock)
    read: dict[str, float] = {}
    for number, step in enumerate(steps):
        note(memory, commands(str(number)), replies(str(number)))
        read[str(number)] = clock.now
        clock.now += step
        for name, when in read.items():
            age, known = clock.now - when, memory.recall(commands(name)) is not None
            assert known or age >= 30
            assert not known or age <= 60


@given(st.lists(st.integers(0, 50), max_size=200))
def test_no_more_is_kept_than_may_be(names: list[int]) -> None:
    memory = RememberedReplies(20 * SIZE, 60)
    for name in names:
        note(memory, commands(f"{name:04}"), replies(f"{name:04}"))
    kept = [name for name in set(names) if memory.recall(commands(f"{name:04}")) is not None]
    assert len(kept) <= 20
    assert {*kept} >= {*names[-10:]}


def test_what_is_read_again_and_again_drives_nothing_out() -> None:
    memory = RememberedReplies(20 * SIZE, 60)
    note(memory, commands("0000"), replies("0000"))
    for _ in range(10_000):
        note(memory, commands("0001", "0002"), replies("0001", "0002"))
    assert memory.recall(commands("0000")) == replies("0000")


def test_that_an_entity_is_unknown_is_remembered_too() -> None:
    memory = RememberedReplies(1 << 20, 60)
    note(memory, commands("x"), [[None, None]])
    assert memory.recall(commands("x")) == [[None, None]]


def test_what_is_written_is_forgotten() -> None:
    memory = RememberedReplies(1 << 20, 60)
    note(memory, commands("x", "y"), replies("x", "y"))
    memory.forget([b"x"])
    assert memory.recall(commands("x")) is None
    assert memory.recall(commands("y")) == replies("y")
    memory.forget_all()
    assert memory.recall(commands("y")) is None


def test_a_read_that_a_write_overtook_is_not_remembered() -> None:
    memory = RememberedReplies(1 << 20, 60)
    before = memory.writes
    memory.forget([b"x"])
    memory.note(commands("x"), replies("old"), before)
    assert memory.recall(commands("x")) is None


def test_what_was_forgotten_takes_no_room() -> None:
    memory = RememberedReplies(20 * SIZE, 60)
    note(memory, commands("0000"), replies("0000"))
    for _ in range(1_000):
        note(memory, commands("0001"), replies("0001"))
        memory.forget([b"0001"])
    assert memory.recall(commands("0000")) == replies("0000")
    assert memory._bytes == SIZE


def test_a_reply_that_grows_takes_more_room() -> None:
    memory = RememberedReplies(20 * SIZE, 60)
    for number in range(8):
        note(memory, commands(f"{number:04}"), [[None, None]])
    large = [b"x" * 4 * SIZE, None]
    for number in range(8):
        note(memory, commands(f"{number:04}"), [large])
    kept = [n for n in range(8) if memory.recall(commands(f"{n:04}")) == [large]]
    assert kept == [4, 5, 6, 7]  # two in each generation
    # What does not fit at all is not remembered, and what was there before is no longer true.
    note(memory, commands("0007"), [[b"x" * 40 * SIZE, None]])
    assert memory.recall(commands("0007")) is None


def test_threads_may_use_it_together() -> None:
    memory = RememberedReplies(40 * SIZE, 60)
    wrong: list[Any] = []

    def work(own: int) -> None:
        for number in range(2_000):
            name = f"{(own + number) % 50:04}"
            note(memory, commands(name), replies(name))
            if memory.recall(commands(name)) not in (None, replies(name)):
                wrong.append(name)
            memory.forget([commands(name)[0].key] if number % 7 == 0 else [])

    threads = [threading.Thread(target=work, args=(own * 11,)) for own in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


class Store:
    """An online store that can be away; what is written to it is noted by its keys."""

    project = "p"

    def __init__(self) -> None:
        self.away = False
        self.asked: list[Sequence[Command]] = []
        self.written: list[bytes] = []
        self.rows: dict[bytes, dict[bytes, bytes]] = {}

    def write(self, view: str, rows: Sequence[OnlineRow]) -> int:
        if self.away:
            raise Unavailable("ONLINE_STORE_UNAVAILABLE", "away")
        self.written += [row.key for row in rows]
        return len(rows)

    def newest(self, view: str) -> int | None:
        return None

    def read(self, commands: Sequence[Command]) -> list[Reply]:
        if commands:
            self.asked.append(commands)
        if self.away and commands:
            raise Unavailable("ONLINE_STORE_UNAVAILABLE", "away")
        found = [self.rows.get(each.key, {}) for each in commands]
        return [
            [row.get(field) for field in each.fields]
            for each, row in zip(commands, found, strict=True)
        ]


def filled() -> Store:
    store, what = Store(), definitions()
    table = delays(["AA", "B"], [1.5, 2.5], [-3, 4], [1, 2])
    for row in encode_rows(what, what.feature_views["delays"], table, store.project):
        pairs = iter([*row.fields])
        stamp = {layout.time_field("delays"): layout.encode_time(row.time_us)}
        store.rows.setdefault(row.key, stamp).update(zip(pairs, pairs, strict=True))
    return store


def wanted(*carriers: str, hour: float = 2) -> Wanted:
    keys: dict[str, list[Any]] = {
        "carrier": list(carriers),
        "tail": ["N1"] * len(carriers),
        "gate": [7] * len(carriers),
    }
    return Wanted("late", keys, [micros(at(hour))] * len(carriers))


def reads(store: Store, monotonic: Callable[[], float] = time.monotonic) -> OnlineReads:
    current = CurrentDefinitions(lambda known: (1, None if known == 1 else definitions()))
    memory = RememberedReplies(1 << 20, 60)
    return OnlineReads(SystemClock(), current, store, memory, monotonic)


def shown(found: Any) -> list[tuple[Any, ...]]:
    assert not isinstance(found, DomainError)
    return [
        (each.name, list(each.statuses), list(each.values), list(each.times))
        for each in found.columns()
    ]


def test_a_store_that_is_away_is_answered_for() -> None:
    store = filled()
    reader = reads(store)
    fresh = reader.read(wanted("AA", "B"))
    assert not fresh.remembered
    store.away = True
    again = reader.read(wanted("AA", "B"))
    assert shown(again) == shown(fresh)
    assert again.remembered
    both = reader.read_all([wanted("B"), wanted("AA", "C"), wanted("AA")])
    # Of the plane, nothing is known: it was so when the store was there.
    assert [isinstance(each, DomainError) for each in both] == [False, True, False]
    with pytest.raises(Unavailable, match="ONLINE_STORE_UNAVAILABLE"):
        reader.read(wanted("C"))
    with pytest.raises(InvalidArgument):
        reader.read(Wanted("late", {"carrier": ["AA"]}))


def test_a_store_that_has_failed_is_asked_for_what_is_not_known_and_soon_for_all() -> None:
    """One that hangs costs each read its time limit."""
    store, clock = filled(), Time()
    reader = reads(store, clock)
    reader.read(wanted("AA"))
    store.away, store.asked = True, []
    for _ in range(5):
        assert reader.read(wanted("AA")).remembered
    assert len(store.asked) == 1
    store.away = False
    both = reader.read_all([wanted("AA"), wanted("B")])
    assert [each.remembered for each in both if not isinstance(each, DomainError)] == [True, False]
    assert not any(b"AA" in command.key for command in store.asked[-1] if b"carrier" in command.key)
    assert not reader.read(wanted("AA")).remembered
    store.away = True
    reader.read(wanted("AA"))
    store.away = False
    assert reader.read(wanted("AA")).remembered
    clock.now += reading.REST_S
    assert not reader.read(wanted("AA")).remembered


def test_what_has_outlived_its_time_is_missing_from_memory_too() -> None:
    store = filled()
    reader = reads(store)
    reader.read(wanted("AA"))
    store.away = True
    fresh, old = (
        {each.name: each for each in reader.read(wanted("AA", hour=hour)).columns()}
        for hour in (2, 9)
    )
    assert list(fresh["mean"].values) == [1.5]
    assert list(old["mean"].statuses) == [Status.EXPIRED]


class Past:
    """A history, and what loads the online store from it."""

    def rows(self, *_: Any) -> Any:
        return delays(["AA"], [9.0], [9], [2])

    def load(self, *_: Any) -> int:
        return 1


def test_what_this_process_writes_is_no_longer_remembered() -> None:
    """A push of an entity, or a load of a view, after which the store does not answer."""
    store, what, past = filled(), definitions(), Past()
    current = CurrentDefinitions(lambda known: (1, None if known == 1 else what))
    memory = RememberedReplies(1 << 20, 60)
    online = OnlineFeatures(SystemClock(), current, store, cast(Any, past), past, memory)

    def remembered_of(carrier: str) -> bool:
        store.away = True
        try:
            return online.read("late", wanted(carrier).keys, at(2), []).remembered
        except Unavailable:
            return False
        finally:
            store.away = False

    def read() -> None:
        online._reads._rests_until = 0.0
        online.read("late", wanted("AA", "B").keys, at(2), [])

    read()
    assert remembered_of("AA")
    store.away = True
    with pytest.raises(Unavailable):
        online.push(what, what.feature_views["delays"], delays(["AA"], [9.0], [9], [2]))
    assert remembered_of("AA")  # nothing was written
    online.push(what, what.feature_views["delays"], delays(["AA"], [9.0], [9], [2]))
    assert len(store.written) == 1
    assert not remembered_of("AA")
    assert remembered_of("B")
    read()
    assert remembered_of("AA")
    online.load(cast(Any, None), what, ["delays"], None, None)
    assert not remembered_of("B")
