"""UUIDs of version 7."""

from __future__ import annotations

import os
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

from service_kit.ids import uuid7, uuid7_str


def test_version_variant_and_time() -> None:
    before = time.time_ns() // 1_000_000
    made = uuid7()
    after = time.time_ns() // 1_000_000
    assert (made.version, made.variant) == (7, uuid.RFC_4122)
    # Ids made earlier in a burst may have pushed the clock of this one on a little.
    assert before <= made.int >> 80 <= after + 1_000


def test_each_is_greater_than_the_last() -> None:
    made = [uuid7() for _ in range(20_000)]
    assert made == sorted(set(made))


def test_threads_never_share_one() -> None:
    with ThreadPoolExecutor(8) as pool:
        made = [
            each
            for part in pool.map(lambda _: [uuid7() for _ in range(500)], range(8))
            for each in part
        ]
    assert len(set(made)) == 4_000


def test_a_clock_that_steps_back_does_no_harm(monkeypatch: object) -> None:
    first = uuid7()
    import pytest

    patch = pytest.MonkeyPatch()
    try:
        patch.setattr(time, "time_ns", lambda: 0)
        assert uuid7() > first
    finally:
        patch.undo()


def test_a_forked_child_can_make_them_too() -> None:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, uuid7_str().encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert uuid.UUID(os.read(read, 36).decode()) != uuid7()
    os.close(read)
    os.close(write)
