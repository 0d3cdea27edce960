"""Event time goes on by many rows' word, and no few wrong times move it."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor_svc.domain.watermarks import (
    GRID_ORIGIN_US,
    MOST_VOTES,
    Watermark,
    advanced,
    votes_needed,
)

DAY = 86_400_000_000
NEEDED = 20
#: A midnight.
NOW = GRID_ORIGIN_US + 15_000 * DAY

times = st.integers(min_value=-30 * DAY, max_value=30 * DAY).map(lambda shift: NOW + shift)
batches = st.lists(st.lists(times, min_size=1, max_size=40), max_size=8)


def _ran(mark: Watermark, given_batches: list[list[int]], needed: int = NEEDED) -> list[Watermark]:
    marks = [mark]
    for batch in given_batches:
        marks.append(advanced(marks[-1], np.array(batch, dtype=np.int64), DAY, needed))
    return marks


def _day(time: int | None) -> int:
    assert time is not None
    return (time - NOW) // DAY


@given(batches)
def test_it_never_goes_back_and_never_past_what_was_seen(given_batches: list[list[int]]):
    marks = _ran(Watermark(NOW), given_batches)
    known = [mark.time_us or 0 for mark in marks]
    assert known == sorted(known)
    assert known[-1] <= max([NOW, *(time for batch in given_batches for time in batch)])


@given(
    st.lists(st.lists(st.integers(NOW - DAY, NOW + DAY), max_size=30), min_size=1, max_size=6),
    st.lists(
        st.tuples(st.integers(0, 5), st.integers(NOW + 3 * DAY, NOW + 9_000 * DAY)),
        max_size=NEEDED - 1,
    ),
)
def test_fewer_wrong_times_than_needed_change_nothing(
    sound: list[list[int]], wrong: list[tuple[int, int]]
):
    mixed = [list(batch) for batch in sound]
    for where, time in wrong:
        mixed[where % len(mixed)].append(time)
    clean = [mark.time_us for mark in _ran(Watermark(NOW), sound)]
    assert [mark.time_us for mark in _ran(Watermark(NOW), mixed)] == clean


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 400), st.integers(0, 2**32 - 1))
def test_a_lasting_minority_of_wrong_times_changes_nothing(size: int, seed: int):
    rng = np.random.default_rng(seed)
    sound = NOW + np.arange(3_000) * (DAY // 1_000)
    # One row in five says that it is years later, evenly spread as those of one broken client.
    wrong = np.arange(3_000) % 5 == rng.integers(5)
    rows = np.where(wrong, NOW + 4_000 * DAY + rng.integers(DAY), sound)
    mark = Watermark(NOW)
    for first in range(0, len(rows), size):
        mark = advanced(mark, rows[first : first + size], DAY, NEEDED)
    assert mark.time_us == rows[~wrong].max()


@given(st.integers(2, 3_000), st.integers(1, 30))
def test_a_true_pause_is_over_after_as_many_rows_as_are_needed(pause: int, size: int):
    rows = [NOW + pause * DAY + n for n in range(NEEDED)]
    pieces = [rows[first : first + size] for first in range(0, len(rows), size)]
    marks = _ran(Watermark(NOW), pieces)
    assert [mark.time_us for mark in marks[:-1]] == [NOW] * len(pieces)
    assert marks[-1] == Watermark(rows[-1])


@given(st.permutations(range(12)), st.integers(1, 12))
def test_a_pause_shorter_than_a_window_needs_no_votes(order: list[int], size: int):
    rows = [NOW + number * DAY + DAY // 2 for number in order]
    mark = advanced(Watermark(NOW), np.array(rows), DAY, NEEDED)
    assert mark == Watermark(NOW + 11 * DAY + DAY // 2)
    in_turn = sorted(rows)
    pieces = [in_turn[first : first + size] for first in range(0, len(in_turn), size)]
    assert _ran(Watermark(NOW), pieces)[-1] == mark


def test_after_a_pause_few_rows_a_window_do_not_lag_behind():
    # Three rows a day: the votes for the jump are spread over a week.
    rows = [NOW + (40 + n // 3) * DAY + n % 3 for n in range(60)]
    marks = _ran(Watermark(NOW), [[row] for row in rows])
    assert [_day(mark.time_us) for mark in marks[1:NEEDED]] == [0] * (NEEDED - 1)
    assert [_day(mark.time_us) for mark in marks[NEEDED:]] == [
        40 + n // 3 for n in range(NEEDED - 1, 60)
    ]


def test_the_first_time_is_found_although_the_first_row_is_wrong():
    first = _ran(Watermark(), [[NOW + 5_000 * DAY], [NOW + n for n in range(NEEDED)]])
    assert first[1].time_us is None
    assert first[-1].time_us == NOW + NEEDED - 1
    late = _ran(Watermark(), [[NOW - 5_000 * DAY], [NOW + n for n in range(3 * NEEDED)]])
    assert late[-1].time_us == NOW + 3 * NEEDED - 1


def test_the_earliest_of_the_early_is_where_it_goes():
    wrong, right = NOW + 9_000 * DAY, NOW + 30 * DAY
    mark = _ran(Watermark(NOW), [[wrong], [right + n for n in range(NEEDED)]])[-1]
    assert mark.time_us == right + NEEDED - 1


def test_early_rows_that_time_has_caught_up_with_count_like_all_others():
    early = [NOW + 2 * DAY + n for n in range(NEEDED - 1)]
    caught_up = _ran(Watermark(NOW), [early, [NOW + DAY], [NOW + 30 * DAY], [NOW + 3 * DAY]])
    assert [_day(mark.time_us) for mark in caught_up] == [0, 0, 2, 2, 3]
    assert [mark.votes for mark in caught_up] == [0, NEEDED - 1, 0, 1, 0]


def test_how_many_rows_are_needed():
    assert [votes_needed(rows) for rows in (1, 100, 10**9)] == [20, 100, MOST_VOTES]
