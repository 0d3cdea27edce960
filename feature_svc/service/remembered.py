"""What the online store said last, for when it does not answer.

While it is away nobody can write to it either, so what was read shortly before is, but for what
was written in between, what it holds.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from feature_svc.domain.online.cells import Reply
from feature_svc.domain.online.plan import Command
from service_kit import metrics

_given = metrics.counter(
    "features_remembered_total", "Entities answered from memory while the store was away."
)


class RememberedReplies:
    """Replies to the commands that were read last; for threads.

    What is read goes into a young generation. When that holds half of what may be kept, or is half
    as old as anything may be, it becomes the old one, and what was the old one is forgotten: a read
    costs one entry in a dictionary, and no list of who was read when.

    Args:
        most_values: Values that are kept, of all entities together; none when 0.
        most_age_s: Seconds since a read after which its values are given no longer.
        clock: Monotonic time.
    """

    def __init__(
        self, most_values: int, most_age_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._most = most_values // 2
        self._age = most_age_s
        self._clock = clock
        self._lock = threading.Lock()
        self._young: dict[Command, Reply] = {}
        self._old: dict[Command, Reply] = {}
        self._values = 0
        self._young_since = self._old_since = clock()

    def note(self, commands: Sequence[Command], replies: Sequence[Reply]) -> None:
        """Remember what the store has said."""
        if not self._most:
            return
        values = sum(map(len, replies))
        with self._lock:
            self._turn(values)
            self._young.update(zip(commands, replies, strict=True))
            self._values += values

    def recall(self, commands: Sequence[Command]) -> list[Reply] | None:
        """What the store would say, unless one of the commands is not remembered."""
        with self._lock:
            self._turn(0)
            young, old = self._young, self._old
            found = [young.get(each) or old.get(each) for each in commands]
        replies = [each for each in found if each is not None]
        if len(replies) < len(commands):
            return None
        _given.inc(len(replies))
        return replies

    def _turn(self, values: int) -> None:
        now = self._clock()
        if now - self._young_since >= self._age / 2 or self._values + values > self._most:
            self._old, self._old_since = self._young, self._young_since
            self._young, self._values, self._young_since = {}, 0, now
        if now - self._old_since >= self._age:
            self._old = {}
