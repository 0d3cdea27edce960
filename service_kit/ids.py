"""Identifiers that sort by the time they were made (UUID version 7, RFC 9562)."""

from __future__ import annotations

import os
import threading
import time
import uuid

_lock = threading.Lock()
_last = 0


def uuid7() -> uuid.UUID:
    """A UUID of version 7, strictly greater than every earlier one of this process.

    48 bits of Unix milliseconds, 12 bits of a fraction of the millisecond that also serve as a
    counter (RFC 9562, method 3), 62 random bits.
    """
    global _last
    with _lock:
        millis, rest = divmod(time.time_ns(), 1_000_000)
        # When the clock stands still or steps back, the counter alone moves on.
        _last = tick = max((millis << 12) | (rest << 12) // 1_000_000, _last + 1)
    random = int.from_bytes(os.urandom(8), "big") >> 2
    value = ((tick >> 12) & ((1 << 48) - 1)) << 80 | 0x7 << 76 | (tick & 0xFFF) << 64
    return uuid.UUID(int=value | 0b10 << 62 | random)


def uuid7_str() -> str:
    """A UUID of version 7 in its usual text form, 36 characters."""
    return str(uuid7())


def _forget_after_fork() -> None:
    # A lock held by another thread at the fork would stay held in the child.
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_forget_after_fork)
