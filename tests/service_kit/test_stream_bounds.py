"""What of a stream nobody reads: events that nobody wants, and those that everybody has read."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

import pytest
import redis
from google.protobuf.wrappers_pb2 import StringValue
from sqlalchemy import Engine

from service_kit.errors import Unavailable
from service_kit.metrics import REGISTRY
from service_kit.streams import Event, EventStreams, StreamConsumer, bounds
from tests.service_kit.sample_svc.storage import CONSUMED
from tests.service_kit.streaming import (
    MakeConsumer,
    numbered,
    numbers_of,
    shelve,
    shelves,
    wait_until,
)


def test_what_comes_while_nobody_wants_it_is_passed_over(
    streams: EventStreams, consumer: MakeConsumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service_kit.streams.consumer.WANTED_S", 0.0)
    seen: list[int] = []
    wishes = {"any": False}
    reader = consumer(
        lambda _, events: seen.extend(numbers_of(events)), wanted=lambda: wishes["any"]
    )
    streams.append("s", numbered(1, 2))
    time.sleep(0.002)  # what came in this very millisecond is not past yet
    assert (reader.poll_once(), seen) == (0, [])
    wishes["any"] = True
    assert reader.poll_once() == 0, "what is past is past"
    streams.append("s", numbered(3))
    reader.poll_once()
    wishes["any"] = False
    streams.append("s", numbered(4))
    time.sleep(0.002)
    reader.poll_once()
    assert seen == [3]


def test_what_comes_once_somebody_wants_it_is_not_passed_over(
    streams: EventStreams, consumer: MakeConsumer
) -> None:
    seen: list[int] = []

    def wanted_since_just_now() -> bool:
        # The answer is on its way while the first event comes that is wanted.
        if streams.length("s") < 2:
            streams.append("s", numbered(2))
            return False
        return True

    streams.append("s", numbered(1))
    reader = consumer(
        lambda _, events: seen.extend(numbers_of(events)), wanted=wanted_since_just_now
    )
    while not seen:
        reader.poll_once()
    assert seen == [2]


def test_while_nobody_wants_anything_the_rest_goes_on(
    sqlite_engine: Engine, streams: EventStreams, consumer: MakeConsumer
) -> None:
    streams.append("s", numbered(1))

    def away(*_: Any) -> None:
        raise Unavailable("AWAY", "away")

    with pytest.raises(Unavailable):
        consumer(away).poll_once()  # it dies with an event taken, which keeps the stream from trim
    reader = consumer(shelve, wanted=lambda: False, claim_after=timedelta(0))
    assert reader.poll_once() == 1
    assert shelves(sqlite_engine) == 1
    with redis.Redis.from_url(streams.redis_url) as client:
        assert client.xpending(streams.key("s"), "g")["pending"] == 0


def test_a_thread_that_passes_over_asks_seldom_and_stops_soon(
    streams: EventStreams, consumer: MakeConsumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service_kit.streams.consumer.UNWANTED_S", 0.3)
    asked: list[float] = []
    reader = consumer(lambda *_: None, wanted=lambda: asked.append(time.monotonic()))
    reader.start()
    wait_until(lambda: len(asked) >= 3)
    started = time.monotonic()
    reader.stop()
    assert time.monotonic() - started < 1.0
    assert asked[2] - asked[0] >= 0.6


def test_what_all_groups_are_done_with_is_trimmed(
    sqlite_engine: Engine,
    streams: EventStreams,
    consumer: MakeConsumer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bounds, "YOUNG_S", -1.0)
    slow = StreamConsumer(sqlite_engine, CONSUMED, streams, "slow", "s", lambda *_: None, batch=900)
    seen: list[int] = []
    reader = consumer(lambda _, events: seen.extend(numbers_of(events)), trim=True)
    assert slow.poll_once() == 0  # it is there, and has read nothing
    streams.append("s", numbered(*range(2_000)))
    while reader.poll_once():
        reader._due["gauge"] = 0.0
    assert streams.length("s") == 2_000
    assert slow.poll_once() == 900
    reader._due["gauge"] = 0.0
    reader.poll_once()
    assert 1_100 <= streams.length("s") < 1_300  # nodes of a hundred entries go as a whole
    while slow.poll_once():
        pass
    reader._due["gauge"] = 0.0
    reader.poll_once()
    slow.stop()
    assert streams.length("s") < 200
    assert seen == list(range(2_000))


def test_what_is_young_waits_for_a_group_that_is_yet_to_come(
    sqlite_engine: Engine, streams: EventStreams, consumer: MakeConsumer
) -> None:
    streams.append("s", numbered(*range(500)))
    reader = consumer(lambda *_: None, trim=True)
    while reader.poll_once():
        reader._due["gauge"] = 0.0
    seen: list[int] = []
    late = StreamConsumer(
        sqlite_engine, CONSUMED, streams, "late", "s", lambda _, e: seen.extend(numbers_of(e))
    )
    while late.poll_once():
        pass
    late.stop()
    assert seen == list(range(500))


def test_what_was_taken_and_not_finished_is_not_trimmed(
    streams: EventStreams, consumer: MakeConsumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounds, "YOUNG_S", -1.0)
    streams.append("s", numbered(*range(500)))

    def away(*_: Any) -> None:
        raise Unavailable("AWAY", "away")

    with pytest.raises(Unavailable):
        consumer(away).poll_once()
    seen: list[int] = []
    other = consumer(
        lambda _, events: seen.extend(numbers_of(events)), trim=True, claim_after=timedelta(0)
    )
    bounds.trim_read(other._client, streams.key("s"))
    assert streams.length("s") == 500
    while other.poll_once():
        pass
    assert seen == list(range(500))


def test_a_stream_takes_no_more_memory_than_it_may(redis_url: str, stream_prefix: str) -> None:
    streams = EventStreams(redis_url, stream_prefix, most_bytes=500_000)
    large = [Event.of("s", "k", StringValue(value="x" * 10_000)) for _ in range(100)]
    before = _overflowed("s")
    streams.append("s", large)
    left = streams.length("s")
    assert 30 < left < 50
    assert _overflowed("s") - before == 100 - left
    streams.append("s", large)  # not looked at again so soon
    assert streams.length("s") == left + 100
    streams.close()


def _overflowed(stream: str) -> float:
    return REGISTRY.get_sample_value("modelyard_stream_overflow_total", {"stream": stream}) or 0.0
