from __future__ import annotations

import logging
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis
from google.protobuf.wrappers_pb2 import StringValue
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags
from sqlalchemy import Engine, func, select, text
from sqlalchemy.event import listen, remove

from service_kit.database import Session, reading, transaction
from service_kit.errors import InvalidArgument, Unavailable
from service_kit.metrics import REGISTRY
from service_kit.streams import (
    Event,
    EventStreams,
    StreamConsumer,
    current_traceparent,
    decode_event,
    encode_event,
)
from tests.service_kit.sample_svc.storage import CONSUMED
from tests.service_kit.streaming import (
    MakeConsumer,
    numbered,
    numbers_of,
    shelve,
    shelves,
    wait_until,
)

EPOCH = datetime(1970, 1, 1, tzinfo=UTC).replace(tzinfo=None)


@given(
    key=st.text(),
    payload=st.binary(),
    occurred=st.datetimes(timezones=st.just(UTC), min_value=EPOCH),
)
def test_events_survive_the_wire(key: str, payload: bytes, occurred: datetime) -> None:
    event = Event("s", key, "a.B", payload, traceparent="00-1-2-01", occurred=occurred)
    assert decode_event("s", encode_event(event)) == event


@pytest.mark.parametrize("fields", [{}, {b"id": b"x"}])
def test_foreign_entries_are_refused(fields: dict[bytes, bytes]) -> None:
    with pytest.raises(ValueError, match="not an event"):
        decode_event("s", fields)


def test_unpack_checks_the_type() -> None:
    with pytest.raises(ValueError, match="Int64Value"):
        numbered(1)[0].unpack(StringValue)


def test_events_carry_the_trace() -> None:
    assert current_traceparent() == ""
    context = SpanContext(0xABC, 0xDEF, is_remote=False, trace_flags=TraceFlags(1))
    with trace.use_span(NonRecordingSpan(context)):
        event = numbered(1)[0]
    assert event.traceparent == f"00-{0xABC:032x}-{0xDEF:016x}-01"


def test_append_keeps_order_and_counts(streams: EventStreams, consumer: MakeConsumer) -> None:
    streams.append("s", numbered(*range(2500)))
    assert streams.length("s") == 2500
    seen: list[int] = []
    reader = consumer(lambda _, events: seen.extend(numbers_of(events)))
    while reader.poll_once():
        pass
    assert seen == list(range(2500))


def test_streams_are_trimmed(redis_url: str, stream_prefix: str) -> None:
    streams = EventStreams(redis_url, stream_prefix, maxlen=100)
    streams.append("s", numbered(*range(1000)))
    assert 100 <= streams.length("s") < 400
    streams.close()


def test_a_repeated_event_takes_effect_once(
    engine: Engine, streams: EventStreams, consumer: MakeConsumer
) -> None:
    events = numbered(1, 2, 3)
    seen: list[int] = []
    reader = consumer(lambda _, new: seen.extend(numbers_of(new)), engine)
    streams.append("s", [*events, events[0]])
    assert reader.poll_once() == 4
    streams.append("s", events)
    assert reader.poll_once() == 3
    assert seen == [1, 2, 3]


def test_two_groups_each_see_everything(
    sqlite_engine: Engine, streams: EventStreams, consumer: MakeConsumer
) -> None:
    streams.append("s", numbered(1, 2))
    seen: list[int] = []
    other = StreamConsumer(
        sqlite_engine, CONSUMED, streams, "h", "s", lambda _, e: seen.extend(numbers_of(e))
    )
    consumer(lambda _, events: seen.extend(numbers_of(events))).poll_once()
    other.poll_once()
    other.stop()
    assert seen == [1, 2, 1, 2]


def test_poison_goes_to_the_dead_stream_and_stops_nobody(
    engine: Engine,
    streams: EventStreams,
    consumer: MakeConsumer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    tried = 0

    def handle(session: Session, events: Sequence[Event]) -> None:
        nonlocal tried
        shelve(session, events)
        if 13 in numbers_of(events):
            tried += len(events) == 1
            raise InvalidArgument("UNLUCKY", "a bad number")

    reader = consumer(handle, engine)
    streams.append("s", numbered(*range(50)))
    reader.poll_once()
    assert shelves(engine) == 49
    streams.append("s", numbered(50))
    with caplog.at_level(logging.ERROR):
        for _ in range(6):
            reader.poll_once()
    assert shelves(engine) == 50
    assert tried == 5
    assert "set aside" in caplog.text
    with redis.Redis.from_url(streams.redis_url) as client:
        [(_, dead)] = client.xrange(f"{streams.prefix}:s.dead")
        assert client.xpending(streams.key("s"), "g")["pending"] == 0
    assert numbers_of([decode_event("s", dead)]) == [13]
    assert (dead[b"error"], dead[b"group"]) == (b"UNLUCKY", b"g")


def test_a_failure_that_passes_is_retried_to_success(
    sqlite_engine: Engine, streams: EventStreams, consumer: MakeConsumer
) -> None:
    failures = iter([True, True, False])

    def handle(session: Session, events: Sequence[Event]) -> None:
        if next(failures):
            raise RuntimeError("not yet")
        shelve(session, events)

    reader = consumer(handle)
    streams.append("s", numbered(1))
    for _ in range(3):
        reader.poll_once()
    assert shelves(sqlite_engine) == 1


def test_unavailable_holds_the_batch_without_counting(
    sqlite_engine: Engine, streams: EventStreams, consumer: MakeConsumer
) -> None:
    down = True

    def handle(session: Session, events: Sequence[Event]) -> None:
        if down:
            raise Unavailable("PEER_DOWN", "a peer does not answer")
        shelve(session, events)

    reader = consumer(handle)
    streams.append("s", numbered(1, 2))
    for _ in range(8):
        with pytest.raises(Unavailable):
            reader.poll_once()
    down = False
    reader.poll_once()
    assert shelves(sqlite_engine) == 2
    assert streams.length("s.dead") == 0


def test_what_a_dead_consumer_left_is_taken_over(
    sqlite_engine: Engine, streams: EventStreams, consumer: MakeConsumer
) -> None:
    def crash(session: Session, events: Sequence[Event]) -> None:
        raise Unavailable("CRASH", "gone")

    streams.append("s", numbered(1, 2))
    with pytest.raises(Unavailable):
        consumer(crash).poll_once()
    heir = consumer(shelve, claim_after=timedelta(milliseconds=10))
    time.sleep(0.02)
    assert heir.poll_once() == 2
    assert shelves(sqlite_engine) == 2


def test_effect_without_acknowledgement_is_not_repeated(
    engine: Engine, streams: EventStreams, consumer: MakeConsumer, monkeypatch: Any
) -> None:
    seen: list[int] = []

    def handle(_: Session, events: Sequence[Event]) -> None:
        seen.extend(numbers_of(events))

    reader = consumer(handle, engine)
    streams.append("s", numbered(1, 2))
    with monkeypatch.context() as patch:
        patch.setattr(reader._client, "xack", refuse_to_acknowledge)
        with pytest.raises(Unavailable):
            reader.poll_once()
    heir = consumer(handle, engine, claim_after=timedelta(milliseconds=10))
    time.sleep(0.02)
    assert heir.poll_once() == 2
    assert seen == [1, 2]


def refuse_to_acknowledge(*_: object) -> None:
    raise redis.ConnectionError("cut")


def test_foreign_entries_are_set_aside(
    sqlite_engine: Engine, streams: EventStreams, consumer: MakeConsumer
) -> None:
    with redis.Redis.from_url(streams.redis_url) as client:
        client.xadd(streams.key("s"), {"junk": "1"})
    streams.append("s", numbered(1))
    consumer(shelve).poll_once()
    assert shelves(sqlite_engine) == 1
    assert streams.length("s.dead") == 1


def test_a_lost_redis_is_rebuilt(
    sqlite_engine: Engine, streams: EventStreams, consumer: MakeConsumer
) -> None:
    reader = consumer(shelve)
    reader.start()
    streams.append("s", numbered(1))
    wait_until(lambda: shelves(sqlite_engine) == 1)
    with redis.Redis.from_url(streams.redis_url) as client:
        client.delete(streams.key("s"))
    streams.append("s", numbered(2))
    wait_until(lambda: shelves(sqlite_engine) >= 2)
    assert shelves(sqlite_engine) == 2
    assert streams.length("s") == 1


def test_the_thread_consumes_soon_and_stops_soon(
    sqlite_engine: Engine, streams: EventStreams, consumer: MakeConsumer
) -> None:
    reader = consumer(shelve)
    reader.start()
    streams.append("s", numbered(1))
    wait_until(lambda: shelves(sqlite_engine) == 1, 1.0)
    started = time.monotonic()
    reader.stop()
    assert time.monotonic() - started < 1.0
    with redis.Redis.from_url(streams.redis_url) as client:
        assert client.xinfo_consumers(streams.key("s"), "g") == []


def test_events_that_trickle_in_are_left_to_gather(
    sqlite_engine: Engine, streams: EventStreams, consumer: MakeConsumer
) -> None:
    batches: list[list[int]] = []

    def note(session: Session, events: Sequence[Event]) -> None:
        shelve(session, events)
        batches.append(numbers_of(events))

    consumer(note, gather=0.3).start()
    for number in range(20):
        streams.append("s", numbered(number))
        time.sleep(0.01)
    wait_until(lambda: shelves(sqlite_engine) == 20)
    assert [number for batch in batches for number in batch] == list(range(20))
    assert batches[0] == [0]  # the first does not wait
    assert len(batches) <= 4


def test_old_ids_are_forgotten(
    engine: Engine, streams: EventStreams, consumer: MakeConsumer, monkeypatch: Any
) -> None:
    monkeypatch.setattr("service_kit.streams.consumer.PRUNE_EVERY_S", 0.0)
    streams.append("s", numbered(1))
    consumer(shelve, engine).poll_once()
    assert ids_kept(engine) == 1
    forgetful = consumer(shelve, engine, dedupe_for=timedelta(0))
    forgetful.poll_once()
    assert ids_kept(engine) == 0


def ids_kept(engine: Engine) -> int:
    with reading(engine) as session:
        return session.scalar(select(func.count()).select_from(CONSUMED)) or 0


def test_lag_is_measured(streams: EventStreams, consumer: MakeConsumer) -> None:
    streams.append("s", numbered(*range(10)))
    consumer(lambda *_: None, batch=4).poll_once()
    labels = {"stream": "s", "group": "g"}
    assert REGISTRY.get_sample_value("modelyard_stream_lag", labels) == 6
    assert REGISTRY.get_sample_value("modelyard_stream_pending", labels) == 0


def test_a_batch_takes_as_many_statements_as_one_event(
    engine: Engine, streams: EventStreams, consumer: MakeConsumer
) -> None:
    reader = consumer(lambda *_: None, engine)
    counts = []
    for size in (1, 500):
        streams.append("s", numbered(*range(size)))
        with statements(engine) as found:
            assert reader.poll_once() == size
        counts.append(len(found))
    assert counts[0] == counts[1] <= 2  # one of them may open the transaction


@contextmanager
def statements(engine: Engine) -> Iterator[list[str]]:
    """Statements that a database is asked meanwhile, of however many rows each."""
    found: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        found.append(statement)

    listen(engine, "before_cursor_execute", note)
    try:
        yield found
    finally:
        remove(engine, "before_cursor_execute", note)


def test_a_redis_that_is_down_is_reported_within_the_timeout() -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        streams = EventStreams(f"redis://127.0.0.1:{deaf.getsockname()[1]}/0", "p")
        started = time.monotonic()
        with pytest.raises(Unavailable):
            streams.append("s", numbered(1))
        assert time.monotonic() - started < 0.5
        streams.close()


def test_a_missing_table_is_no_fault_of_the_events(
    engine: Engine, streams: EventStreams, consumer: MakeConsumer
) -> None:
    with transaction(engine) as session:
        session.execute(text("ALTER TABLE consumed_events RENAME TO hidden"))
    streams.append("s", numbered(1))
    reader = consumer(shelve, engine, tries=1)
    with pytest.raises(Unavailable):
        reader.poll_once()
    with transaction(engine) as session:
        session.execute(text("ALTER TABLE hidden RENAME TO consumed_events"))
    reader.poll_once()
    assert shelves(engine) == 1
    assert streams.length("s.dead") == 0
