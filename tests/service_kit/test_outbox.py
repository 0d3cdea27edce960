from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
import redis
from google.protobuf.wrappers_pb2 import Int64Value
from sqlalchemy import Engine, func, select

from service_kit.database import make_engine, reading, transaction
from service_kit.errors import Unavailable
from service_kit.outbox import OutboxRelay, publish, publish_all
from service_kit.streams import Event, EventStreams, decode_event
from tests.fixtures import valkey_server
from tests.service_kit.sample_svc.storage import OUTBOX
from tests.service_kit.test_streams import wait_until


@pytest.fixture
def streams(redis_url: str, stream_prefix: str) -> Iterator[EventStreams]:
    opened = EventStreams(redis_url, stream_prefix)
    yield opened
    opened.close()


def put(engine: Engine, *numbers: int, stream: str = "s") -> None:
    with transaction(engine) as session:
        for number in numbers:
            publish(session, OUTBOX, stream, f"k{number}", Int64Value(value=number))


def appended(streams: EventStreams, stream: str = "s") -> list[Event]:
    with redis.Redis.from_url(streams.redis_url) as client:
        entries: Any = client.xrange(streams.key(stream))
    return [decode_event(stream, fields) for _, fields in entries]


def numbers(streams: EventStreams, stream: str = "s") -> list[int]:
    return [event.unpack(Int64Value).value for event in appended(streams, stream)]


def waiting(engine: Engine) -> int:
    with reading(engine) as session:
        return session.scalar(select(func.count()).where(OUTBOX.c.sent.is_(None))) or 0


def test_events_of_a_commit_arrive_in_order(engine: Engine, streams: EventStreams) -> None:
    put(engine, 1, 2)
    put(engine, 9, stream="other")
    put(engine, 3)
    relay = OutboxRelay(engine, OUTBOX, streams)
    assert relay.relay_once() == 4
    assert numbers(streams) == [1, 2, 3]
    assert numbers(streams, "other") == [9]
    assert relay.relay_once() == 0
    assert waiting(engine) == 0


def test_rolled_back_events_are_never_sent(engine: Engine, streams: EventStreams) -> None:
    def publish_and_fail() -> None:
        with transaction(engine) as session:
            publish(session, OUTBOX, "s", "k", Int64Value(value=1))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        publish_and_fail()
    assert OutboxRelay(engine, OUTBOX, streams).relay_once() == 0


def test_event_arrives_as_it_was_published(engine: Engine, streams: EventStreams) -> None:
    with transaction(engine) as session:
        event = publish(session, OUTBOX, "s", "models/a", Int64Value(value=7))
    OutboxRelay(engine, OUTBOX, streams).relay_once()
    assert appended(streams) == [event]


def test_relay_wakes_at_the_commit(engine: Engine, streams: EventStreams) -> None:
    relay = OutboxRelay(engine, OUTBOX, streams)
    relay.start()
    try:
        time.sleep(0.1)
        started = time.monotonic()
        put(engine, 1)
        wait_until(lambda: numbers(streams) == [1])
        assert time.monotonic() - started < 0.8
    finally:
        relay.stop()


def test_rows_wait_while_redis_is_down(engine: Engine, streams: EventStreams) -> None:
    down = EventStreams("redis://127.0.0.1:9/0", streams.prefix)
    put(engine, 1)
    relay = OutboxRelay(engine, OUTBOX, down)
    with pytest.raises(Unavailable):
        relay.relay_once()
    relay.start()
    put(engine, 2)
    time.sleep(0.2)
    relay.stop()
    assert waiting(engine) == 2
    OutboxRelay(engine, OUTBOX, streams).relay_once()
    assert numbers(streams) == [1, 2]


def test_crash_after_the_append_sends_again_with_the_same_id(
    engine: Engine, streams: EventStreams, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(engine, 1)
    relay = OutboxRelay(engine, OUTBOX, streams)

    def crash(*_: object) -> None:
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(relay, "_mark_sent", crash)
        with pytest.raises(RuntimeError):
            relay.relay_once()
    OutboxRelay(engine, OUTBOX, streams).relay_once()
    first, second = appended(streams)
    assert first == second


def test_what_redis_lost_is_sent_again(sql_engine: Engine, engine: Engine) -> None:
    with valkey_server() as url:
        streams = EventStreams(url, "p")
        relay = OutboxRelay(engine, OUTBOX, streams)
        put(engine, 1, 2)
        relay.relay_once()
        with redis.Redis.from_url(url) as client:
            client.flushall()
        put(engine, 3)
        relay.relay_once()
        assert numbers(streams) == [1, 2, 3]
        assert relay.relay_once() == 0
        streams.close()


def test_only_the_lost_tail_is_sent_again(engine: Engine, streams: EventStreams) -> None:
    relay = OutboxRelay(engine, OUTBOX, streams)
    put(engine, 1)
    relay.relay_once()
    with redis.Redis.from_url(streams.redis_url) as client:
        old_mark: Any = client.get(mark := streams.key(f"sent:{relay._name}"))
        put(engine, 2)
        relay.relay_once()
        client.delete(streams.key("s"))
        client.set(mark, old_mark)
    # A restarted relay finds the loss as well as a running one.
    OutboxRelay(engine, OUTBOX, streams).relay_once()
    assert numbers(streams) == [2]


def test_sent_rows_are_deleted_when_kept_long_enough(engine: Engine, streams: EventStreams) -> None:
    put(engine, 1)
    OutboxRelay(engine, OUTBOX, streams).relay_once()
    assert rows(engine) == 1
    time.sleep(0.001)
    OutboxRelay(engine, OUTBOX, streams, keep_for=timedelta(0)).relay_once()
    assert rows(engine) == 0


def rows(engine: Engine) -> int:
    with reading(engine) as session:
        return session.scalar(select(func.count()).select_from(OUTBOX)) or 0


def test_one_process_of_a_service_sends_at_a_time(
    engine: Engine, streams: EventStreams, monkeypatch: pytest.MonkeyPatch
) -> None:
    if engine.dialect.name == "sqlite":
        pytest.skip("a SQLite service is one process")
    second_engine = make_engine(engine.url.render_as_string(hide_password=False))
    second = OutboxRelay(second_engine, OUTBOX, streams)
    first = OutboxRelay(engine, OUTBOX, streams)
    put(engine, 1)
    sent_meanwhile = []
    mark_sent = first._mark_sent

    def slow_mark(*arguments: Any) -> None:
        sent_meanwhile.append(second.relay_once())
        mark_sent(*arguments)

    monkeypatch.setattr(first, "_mark_sent", slow_mark)
    assert first.relay_once() == 1
    assert sent_meanwhile == [0]
    assert numbers(streams) == [1]
    second_engine.dispose()


def test_many_events_are_sent_in_batches(engine: Engine, streams: EventStreams) -> None:
    with transaction(engine) as session:
        publish_all(session, OUTBOX, [Event.of("s", "k", Int64Value(value=n)) for n in range(1200)])
    relay = OutboxRelay(engine, OUTBOX, streams)
    relay.start()
    wait_until(lambda: streams.length("s") == 1200)
    relay.stop()
    assert numbers(streams) == list(range(1200))
