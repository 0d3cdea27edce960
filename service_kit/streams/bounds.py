"""How much a stream keeps: what somebody has still to read, within a number of bytes."""

from __future__ import annotations

from typing import Any

import redis

#: Bytes of a stream, about; the oldest events go when there are more.
MOST_BYTES = 1 << 30
#: Seconds for which an event is kept whoever has read it.
YOUNG_S = 60.0
#: What is left of a stream that has grown too large, as a share of `MOST_BYTES`.
_LEFT = 0.9


def trim_read(client: redis.Redis, key: str) -> int:
    """Drop what all groups of a stream are done with; gives how many events that were, about.

    A group is done with everything before what it was given last and before the oldest that it
    has not acknowledged. What is young stays: a group that a new consumer is about to make begins
    with it.
    """
    groups: Any = client.xinfo_groups(key)
    if not groups:
        return 0
    done = min(_done(client, key, group) for group in groups)
    seconds: Any = client.time()
    done = min(done, (int((seconds[0] - YOUNG_S) * 1_000), 0))
    gone: Any = client.xtrim(key, minid=f"{done[0]}-{done[1]}", approximate=True)
    return int(gone)


def trim_bytes(client: redis.Redis, key: str, most: int = MOST_BYTES) -> int:
    """Drop the oldest events of a stream that takes more memory than it may; gives how many."""
    used: Any = client.memory_usage(key)
    if not used or used <= most:
        return 0
    kept = int(client.xlen(key) * _LEFT * most / used)  # type: ignore[operator]
    gone: Any = client.xtrim(key, maxlen=kept, approximate=False)
    return int(gone)


def _done(client: redis.Redis, key: str, group: dict[str, Any]) -> tuple[int, int]:
    if group["pending"]:
        pending: Any = client.xpending(key, group["name"])
        if pending["min"] is not None:
            return _parsed(pending["min"])
    return _parsed(group["last-delivered-id"])


def _parsed(entry: bytes) -> tuple[int, int]:
    millis, _, number = entry.decode().partition("-")
    return int(millis), int(number)
