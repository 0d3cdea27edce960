"""What the online store said last, for when it does not answer."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence

from feature_svc.domain.online.cells import Reply
from feature_svc.domain.online.plan import Command

#: Bytes of the objects around a reply, and around each of its cells.
_REPLY, _CELL = 400, 40

_Rows = dict[bytes, dict[tuple[bytes, ...], Reply]]
"""Replies by key and fields."""


class RememberedReplies:
    """Replies to the commands that were read last; for threads.

    What is read goes into a young generation. When that holds half of what may be kept, or is half
    as old as anything may be, it becomes the old one, and what was the old one is forgotten: a read
    costs one entry in a dictionary, and no list of who was read when. That the store did not know
    an entity is remembered like all else.

    Args:
        most_bytes: Memory that is taken, roughly; none when 0.
        most_age_s: Seconds since a read after which its values are given no longer; what was read
            is given for half of that at least, while there is room and nobody writes it.
        clock: Monotonic time.
    """

    def __init__(
        self, most_bytes: int, most_age_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._most = most_bytes // 2
        self._age = most_age_s
        self._clock = clock
        self._lock = threading.Lock()
        self._young: _Rows = {}
        self._old: _Rows = {}
        self._bytes = 0
        self._writes = 0
        self._young_since = self._old_since = clock()

    @property
    def writes(self) -> int:
        """How often something was forgotten because it was written; to be taken before a read."""
        return self._writes

    def note(self, commands: Sequence[Command], replies: Sequence[Reply], writes: int) -> None:
        """Remember what the store has said, unless something was written meanwhile.

        Args:
            writes: What `writes` was before the store was asked.
        """
        if not self._most:
            return
        with self._lock:
            if writes != self._writes:
                return
            self._turn()
            for command, reply in zip(commands, replies, strict=True):
                self._put(command, reply)

    def recall(self, commands: Sequence[Command]) -> list[Reply] | None:
        """What the store would say, unless one of the commands is not remembered."""
        with self._lock:
            self._turn()
            found = [self._find(each) for each in commands]
        replies = [each for each in found if each is not None]
        return replies if len(replies) == len(commands) else None

    def forget(self, keys: Iterable[bytes]) -> None:
        """No longer remember some keys: other values have been written to them."""
        with self._lock:
            self._writes += 1
            for key in keys:
                self._drop(key)

    def forget_all(self) -> None:
        """No longer remember anything."""
        with self._lock:
            self._writes += 1
            self._young, self._old, self._bytes = {}, {}, 0

    def _find(self, command: Command) -> Reply | None:
        for generation in (self._young, self._old):
            reply = generation.get(command.key, {}).get(command.fields)
            if reply is not None:
                return reply
        return None

    def _put(self, command: Command, reply: Reply) -> None:
        known = self._young.get(command.key, {}).get(command.fields)
        if known == reply:
            return
        size = _size(command, reply)
        if size > self._most:
            self._drop(command.key)
            return
        grown = size - (0 if known is None else _size(command, known))
        if self._bytes + grown > self._most:
            self._begin(self._clock())
            grown = size
        self._young.setdefault(command.key, {})[command.fields] = reply
        self._bytes += grown

    def _drop(self, key: bytes) -> None:
        self._old.pop(key, None)
        for fields, reply in self._young.pop(key, {}).items():
            self._bytes -= _size(Command(key, fields), reply)

    def _turn(self) -> None:
        now = self._clock()
        if now - self._young_since >= self._age / 2:
            self._begin(now)
        if now - self._old_since >= self._age:
            self._old = {}

    def _begin(self, now: float) -> None:
        self._old, self._old_since = self._young, self._young_since
        self._young, self._bytes, self._young_since = {}, 0, now


def _size(command: Command, reply: Reply) -> int:
    return _REPLY + len(command.key) + sum(_CELL + len(cell or b"") for cell in reply)
