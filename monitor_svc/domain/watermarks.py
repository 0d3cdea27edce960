"""How far event time has come, on the word of many rows and not of one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from monitor_svc.domain.sketches import Ints

#: A Monday: weekly windows begin on Mondays, daily ones at midnight UTC.
GRID_ORIGIN_US = -3 * 86_400_000_000
#: Rows whose word a jump takes, at the least and at the most.
FEWEST_VOTES, MOST_VOTES = 20, 1_000


@dataclass(frozen=True, slots=True)
class Watermark:
    """Event time that is believed, and what speaks for a later one; times in microseconds.

    Attributes:
        time_us: Believed; None before the first.
        votes: By how many rows those beyond the next window outnumber the others, as of late.
        early_us: Least and greatest time of the earliest unbroken chain of windows among those
            rows; None without votes.
    """

    time_us: int | None = None
    votes: int = 0
    early_us: tuple[int, int] | None = None


def votes_needed(min_rows: int) -> int:
    """Rows that make a window worth judging make a jump of time worth believing, within bounds."""
    return min(max(min_rows, FEWEST_VOTES), MOST_VOTES)


def advanced(mark: Watermark, times_us: Ints, window_us: int, needed: int) -> Watermark:
    """The watermark after further rows; it never goes back.

    It follows the greatest event time from window to next window. A row further ahead is early:
    it may be the first one after a pause, or one whose time is wrong. Each early row is a vote
    for a jump and each other row takes one back, down to none (the one-sided cumulative sum of
    Page, "Continuous inspection schemes", Biometrika 41, 1954). With `needed` votes the watermark
    goes to where the earliest of them have come, from window to next window, and on from there by
    the same rule. So fewer than `needed` wrong rows never make it jump, nor does a minority that
    lasts; a true pause is over after `needed` rows. The first time of all is found the same way.

    Args:
        mark: Where it is.
        times_us: Event times of the rows, microseconds, in any order.
        window_us: Length of a window.
        needed: Votes that a jump takes, 1 at least.
    """
    while len(times_us):
        mark, times_us = _followed(mark, times_us, window_us)
        if mark.votes < needed or mark.early_us is None:
            break
        mark = Watermark(mark.early_us[1])
    return mark


def _followed(mark: Watermark, times_us: Ints, window_us: int) -> tuple[Watermark, Ints]:
    """The watermark without any jump, with the votes of the rows that lie too far ahead of it."""
    time, votes, chain = mark.time_us, mark.votes, mark.early_us
    early = times_us
    if time is not None:
        time, reach_us = _reached(time, times_us, window_us)
        if chain and chain[0] < reach_us:
            time, reach_us = _reached(max(time, chain[1]), times_us, window_us)
            votes, chain = 0, None
        early = times_us[times_us >= reach_us]
    votes = max(0, votes + 2 * len(early) - len(times_us))
    if not votes:
        return Watermark(time), early
    return Watermark(time, votes, _chained(chain, early, window_us)), early


def _chained(chain: tuple[int, int] | None, early: Ints, window_us: int) -> tuple[int, int] | None:
    """The earliest chain of windows among the rows that it came from and further ones."""
    if not len(early):
        return chain
    first = int(early.min())
    last, reach_us = _reached(first, early, window_us)
    if chain is None:
        return first, last
    if first < chain[0]:
        return first, max(last, chain[1]) if chain[0] < reach_us else last
    return chain[0], _reached(chain[1], early, window_us)[0]


def _reached(time_us: int, times_us: Ints, window_us: int) -> tuple[int, int]:
    """Greatest time in an unbroken chain of windows, and the end of the window after it."""
    present = (time_us - GRID_ORIGIN_US) // window_us
    windows = (times_us - GRID_ORIGIN_US) // window_us
    ahead = np.unique(windows[windows > present])
    broken = np.flatnonzero(ahead != present + 1 + np.arange(len(ahead)))
    last = present + (int(broken[0]) if len(broken) else len(ahead))
    newest = int(times_us[windows <= last].max(initial=time_us))
    return newest, (last + 2) * window_us + GRID_ORIGIN_US
