"""The rule that says how many replicas a version should have."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from serving_svc.domain import Replica
from serving_svc.domain.scaling import (
    Bounds,
    Load,
    Scaling,
    ScalingPolicy,
    asked_for,
    decide,
    loads,
)

POLICY = ScalingPolicy(target_rows=10, up_after_s=4, down_after_s=20)
MANY = Bounds(1, 50)

LOADS = st.builds(Load, st.integers(0, 50), st.floats(0, 10_000), st.floats(0, 1e7))
BOUNDS = st.tuples(st.integers(1, 20), st.integers(0, 20)).map(lambda p: Bounds(p[0], p[0] + p[1]))


def walk(bounds: Bounds, count: int, seen: list[Load], step: float = 1.0) -> list[int]:
    """The counts after each look."""
    counts, history = [], Scaling(0.0)
    for turn, load in enumerate(seen):
        count, history = decide(POLICY, bounds, count, history, load, turn * step)
        counts.append(count)
    return counts


def served(total: float, count: int) -> Load:
    """A load that is shared by so many replicas."""
    return Load(count, total / count, 0.0)


@given(BOUNDS, st.integers(0, 60), st.lists(LOADS, min_size=1, max_size=60))
def test_the_count_stays_within_its_bounds(bounds: Bounds, count: int, seen: list[Load]) -> None:
    assert all(bounds.least <= each <= bounds.most for each in walk(bounds, count, seen))


@given(st.integers(1, 50), st.floats(0.91, 1.09), st.integers(1, 60))
def test_near_the_target_nothing_changes(count: int, near: float, looks: int) -> None:
    load = Load(count, 10 * near, 0.0)
    assert set(walk(MANY, count, [load] * looks)) == {count}


@given(st.integers(1, 50), st.lists(LOADS, max_size=60))
def test_two_changes_are_a_window_apart(count: int, seen: list[Load]) -> None:
    counts = [count, *walk(MANY, count, seen)]
    changes = [at for at in range(1, len(counts)) if counts[at] != counts[at - 1]]
    for earlier, later in itertools.pairwise(changes):
        up = counts[later] > counts[later - 1]
        assert later - earlier >= (POLICY.up_after_s if up else POLICY.down_after_s)


@given(st.floats(0, 490), st.integers(1, 50))
def test_a_steady_load_is_settled_once_and_for_all(total: float, count: int) -> None:
    history, counts = Scaling(0.0), [count]
    for turn in range(300):
        now, history = decide(
            POLICY, MANY, counts[-1], history, served(total, counts[-1]), float(turn)
        )
        counts.append(now)
    directions = {
        later > earlier for earlier, later in itertools.pairwise(counts) if later != earlier
    }
    assert len(directions) <= 1  # never up and down again
    assert len(set(counts[200:])) == 1
    settled = counts[-1]
    assert settled * 10 * (1 + POLICY.band) >= total
    # Not more than the load needs, and a band.
    assert settled == 1 or (settled - 1) * 10 * (1 + POLICY.band) <= total * 1.3 + 10


@given(LOADS, LOADS, st.integers(1, 50))
def test_more_load_never_asks_for_fewer(one: Load, other: Load, count: int) -> None:
    less = Load(count, min(one.rows, other.rows), min(one.queue_us, other.queue_us))
    more = Load(count, max(one.rows, other.rows), max(one.queue_us, other.queue_us))
    assert asked_for(POLICY, less, count) <= asked_for(POLICY, more, count)


def test_one_odd_look_changes_nothing() -> None:
    calm, storm = Load(2, 10.0, 0.0), Load(2, 500.0, 0.0)
    assert set(walk(MANY, 2, [calm] * 5 + [storm] + [calm] * 30)) == {2}


def test_a_long_queue_asks_for_more_as_many_rows_do() -> None:
    assert asked_for(POLICY, Load(2, 1.0, 60_000.0), 2) == 6


def test_up_after_the_short_window_and_down_after_the_long_one() -> None:
    counts = walk(MANY, 2, [Load(2, 40.0, 0.0)] * 6)
    assert counts == [2, 2, 2, 2, 8, 8]
    counts = walk(MANY, 8, [Load(8, 1.0, 0.0)] * 22)
    assert counts[:20] == [8] * 20
    assert counts[-1] == 1


def test_new_bounds_are_in_force_at_once() -> None:
    assert walk(Bounds(3, 5), 1, [Load(1, 10.0, 0.0)]) == [3]
    assert walk(Bounds(1, 2), 5, [Load(5, 10.0, 0.0)]) == [2]


def test_replicas_that_drain_bear_no_load() -> None:
    now = datetime(2013, 1, 1, tzinfo=UTC)
    kept = [
        Replica(str(n), "models/m/versions/1", f"h:{n}", rows, 100 * n, draining, now)
        for n, (rows, draining) in enumerate([(10, False), (30, False), (900, True)])
    ]
    assert loads(kept) == {"models/m/versions/1": Load(2, 20.0, 50.0)}
