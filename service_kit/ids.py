"""Identifiers that sort by the time they were made (UUID version 7, RFC 9562)."""

from __future__ import annotations

import os
import threading
import time
import uuid
from functools import lru_cache

#: Characters of an id as text.
LENGTH = 36
_SIZE = 8
#: Endings made at once: their randomness is one system call, and each then costs a third.
_POOL = 512
#: The variant's two bits, 10, before the other two of a hexadecimal digit.
_VARIANTS = {f"{digit:x}": "89ab"[digit & 0b11] for digit in range(16)}

_lock = threading.Lock()
_last = 0
_endings: list[str] = []
_randomness = b""


def uuid7() -> uuid.UUID:
    """A UUID of version 7, strictly greater than every earlier one of this process.

    48 bits of Unix milliseconds, 12 bits of a fraction of the millisecond that also serve as a
    counter (RFC 9562, method 3), 62 random bits.
    """
    return uuid.UUID(uuid7_str())


def uuid7_str() -> str:
    """A UUID of version 7 in its usual text form, 36 characters."""
    global _last
    with _lock:
        _last = tick = max(_tick_now(), _last + 1)
        if not _endings:
            _make_endings(_POOL)
        ending = _endings.pop()
    return f"{_first_half(tick >> 12)}-7{tick & 0xFFF:03x}{ending}"


def uuid7_strs(count: int) -> list[str]:
    """Several UUIDs of version 7 as text, in order; cheaper than one by one."""
    global _last
    if count == 1:
        return [uuid7_str()]
    with _lock:
        first = max(_tick_now(), _last + 1)
        _last = first + count - 1
        if len(_endings) < count:
            _make_endings(max(_POOL, count))
        taken = _endings[-count:]
        del _endings[-count:]
    ticks = range(first, first + count)
    if first >> 12 == ticks[-1] >> 12:
        start = f"{_first_half(first >> 12)}-7"
        return [f"{start}{tick & 0xFFF:03x}{end}" for tick, end in zip(ticks, taken, strict=True)]
    return [
        f"{_first_half(tick >> 12)}-7{tick & 0xFFF:03x}{end}"
        for tick, end in zip(ticks, taken, strict=True)
    ]


def uuid7_parts(count: int) -> tuple[int, bytes]:
    """What several UUIDs of version 7 are made of, for those who write many at once.

    The first one's 60 bits of time, of which each next one has one more, and 8 random bytes for
    each: two bits of the first of them give way to the variant.
    """
    global _last, _randomness
    size = _SIZE * count
    with _lock:
        first = max(_tick_now(), _last + 1)
        _last = first + count - 1
        if len(_randomness) < size:
            _randomness = os.urandom(max(_SIZE * _POOL, size))
        taken, _randomness = _randomness[:size], _randomness[size:]
    return first, taken


def _make_endings(count: int) -> None:
    digits = os.urandom(_SIZE * count).hex()
    texts = map("".join, zip(*[iter(digits)] * (2 * _SIZE), strict=True))
    # Of 64 random bits, two give way to the variant.
    _endings.extend([f"-{_VARIANTS[each[0]]}{each[1:4]}-{each[4:]}" for each in texts])


def _tick_now() -> int:
    # Milliseconds, and 12 bits of their fraction. When the clock stands still or steps back, the
    # counter alone moves on.
    millis, rest = divmod(time.time_ns(), 1_000_000)
    return (millis << 12) | (rest << 12) // 1_000_000


@lru_cache(maxsize=4)
def _first_half(millis: int) -> str:
    digits = f"{millis:012x}"
    return f"{digits[:8]}-{digits[8:]}"


def _forget_after_fork() -> None:
    # A lock held by another thread at the fork would stay held in the child, and parent and child
    # would draw the same randomness.
    global _lock, _randomness
    _lock = threading.Lock()
    _endings.clear()
    _randomness = b""


os.register_at_fork(after_in_child=_forget_after_fork)
