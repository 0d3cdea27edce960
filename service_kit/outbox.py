"""The transactional outbox: state and the news of it commit together, a relay sends the news."""

from __future__ import annotations

import hashlib
import logging
import random
import threading
import time
import weakref
import zlib
from collections.abc import Sequence
from datetime import timedelta
from itertools import groupby

from google.protobuf.message import Message
from sqlalchemy import (
    BigInteger,
    Column,
    Engine,
    Index,
    LargeBinary,
    MetaData,
    Row,
    String,
    Table,
    delete,
    event,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.orm import DeclarativeBase, Session

from service_kit import metrics
from service_kit.database import BigKey, UtcDateTime, reading, transaction
from service_kit.errors import Unavailable
from service_kit.streams.events import Event
from service_kit.streams.redis_streams import EventStreams

logger = logging.getLogger(__name__)

BATCH = 500
#: Who publishes wakes the relay; by itself it looks whether Redis has lost something.
POLL_S = 5.0
#: While another process of the service sends, which may have looked before our rows were there.
ELSEWHERE_S = 1.0
MEASURE_EVERY_S = 5.0
PRUNE_EVERY_S = 60.0
MAX_PAUSE_S = 5.0

SENT = metrics.counter("outbox_sent_total", "Events appended to a stream.", ["stream"])
UNSENT = metrics.gauge("outbox_unsent", "Events that wait in the outbox.", ["outbox"])

_relays: weakref.WeakSet[OutboxRelay] = weakref.WeakSet()


def outbox_table(base: type[DeclarativeBase] | MetaData, name: str = "outbox") -> Table:
    """The table of events to send; `sent` is empty until the stream has them."""
    return Table(
        name,
        base if isinstance(base, MetaData) else base.metadata,
        Column("position", BigKey, primary_key=True),
        Column("event_id", String(36), nullable=False, unique=True),
        Column("stream", String(64), nullable=False),
        Column("key", String(256), nullable=False),
        Column("type", String(200), nullable=False),
        Column("payload", LargeBinary, nullable=False),
        Column("traceparent", String(64), nullable=False),
        Column("occurred", UtcDateTime, nullable=False),
        Column("sent", BigInteger, nullable=True),
        Index(f"ix_{name}_sent_position", "sent", "position"),
    )


def publish(session: Session, table: Table, stream: str, key: str, message: Message) -> Event:
    """Record an event in the transaction of `session`; it is sent once that has committed."""
    return publish_all(session, table, [Event.of(stream, key, message)])[0]


def publish_all(session: Session, table: Table, events: Sequence[Event]) -> Sequence[Event]:
    """Record many events at once, in their order."""
    if events:
        session.execute(insert(table), [_row(item) for item in events])
        event.listen(session, "after_commit", lambda _: _wake(table), once=True)
    return events


def _row(item: Event) -> dict[str, object]:
    return {
        "event_id": item.id,
        "stream": item.stream,
        "key": item.key,
        "type": item.type,
        "payload": item.payload,
        "traceparent": item.traceparent,
        "occurred": item.occurred,
    }


def _wake(table: Table) -> None:
    for relay in list(_relays):
        if relay.table is table:
            relay.notify()


class OutboxRelay:
    """Appends the rows of an outbox to their streams, in order, at least once.

    A consumer recognises a repetition by the event's id. While Redis is down the rows wait.
    Sent rows are kept for `keep_for`: Redis may lose what it acknowledged (a crash with
    ``appendfsync everysec``, a lost volume), and then also loses the mark that the relay set
    after it; the relay sees the older mark and sends again what came after.

    Args:
        engine: Database of `table`.
        table: From `outbox_table`.
        streams: Where to append.
        keep_for: How long a sent row can be sent again.
    """

    def __init__(
        self,
        engine: Engine,
        table: Table,
        streams: EventStreams,
        *,
        keep_for: timedelta = timedelta(hours=1),
    ) -> None:
        self.table = table
        self._engine = engine
        self._streams = streams.patient()
        self._keep_for = keep_for
        self._name = _outbox_name(engine, table)
        self._last: int | None = None
        self._next_prune = 0.0
        self._next_measure = 0.0
        self._elsewhere = False
        self._wakeup = threading.Event()
        self._stopping = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to send on a thread of its own."""
        self._stopping = False
        _relays.add(self)
        self._thread = threading.Thread(target=self._run, name="outbox-relay", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Finish the batch at hand; what is unsent is sent by the next start."""
        _relays.discard(self)
        self._stopping = True
        self._wakeup.set()
        if self._thread is not None:
            self._thread.join(timeout=MAX_PAUSE_S)
            self._thread = None

    def notify(self) -> None:
        """Say that there is something to send; `publish` does so by itself after the commit."""
        self._wakeup.set()

    def relay_once(self) -> int:
        """Send one batch; gives the number of events sent.

        Raises Unavailable when the database or Redis does not answer; the rows stay.
        """
        self._recover_lost()
        if self._engine.dialect.name == "postgresql":
            sent = self._relay_exclusively()
        else:
            # A write transaction around the append would stop every writer of the file.
            with reading(self._engine) as session:
                events = self._unsent(session)
            if sent := self._append(events):
                with transaction(self._engine) as session:
                    self._mark_sent(session, events)
        self._prune()
        return sent

    def _relay_exclusively(self) -> int:
        """One of a service's processes sends at a time; else their batches would interleave."""
        with transaction(self._engine) as session:
            key = zlib.crc32(self._name.encode())
            self._elsewhere = not session.scalar(select(func.pg_try_advisory_xact_lock(key)))
            if self._elsewhere:
                return 0
            events = self._unsent(session)
            if sent := self._append(events):
                self._mark_sent(session, events)
            return sent

    def _unsent(self, session: Session) -> list[Event]:
        table = self.table
        rows = session.execute(
            select(table).where(table.c.sent.is_(None)).order_by(table.c.position).limit(BATCH)
        )
        return [_event(row) for row in rows]

    def _append(self, events: Sequence[Event]) -> int:
        for stream, some in groupby(events, key=lambda item: item.stream):
            batch = list(some)
            self._streams.append(stream, batch)
            SENT.labels(stream).inc(len(batch))
        if events:
            # Grows with every batch, also over restarts, so that an older mark is seen as such.
            position = max(time.time_ns() // 1000, (self._last or 0) + 1)
            self._streams.mark(self._name, position)
            self._last = position
        return len(events)

    def _mark_sent(self, session: Session, events: Sequence[Event]) -> None:
        ids = [item.id for item in events]
        session.execute(
            update(self.table).where(self.table.c.event_id.in_(ids)).values(sent=self._last)
        )

    def _recover_lost(self) -> None:
        table = self.table
        if self._last is None:
            with reading(self._engine) as session:
                self._last = session.scalar(select(func.max(table.c.sent))) or 0
        marked = self._streams.marked(self._name)
        if marked >= self._last:
            return
        with transaction(self._engine) as session:
            session.execute(update(table).where(table.c.sent > marked).values(sent=None))
        self._last = marked
        logger.warning("Redis lost events that it had taken; sending them again")

    def _prune(self) -> None:
        if time.monotonic() < self._next_prune:
            return
        self._next_prune = time.monotonic() + PRUNE_EVERY_S
        table = self.table
        before = time.time_ns() // 1000 - int(self._keep_for.total_seconds() * 1e6)
        with transaction(self._engine) as session:
            session.execute(delete(table).where(table.c.sent < before))

    def _run(self) -> None:
        failures = 0
        while not self._stopping:
            self._wakeup.clear()
            try:
                busy = self.relay_once() == BATCH
                if failures:
                    logger.info("the outbox sends again")
                failures = 0
                self._measure()
                if not busy:
                    self._wakeup.wait(ELSEWHERE_S if self._elsewhere else POLL_S)
            except Exception as error:
                failures += 1
                if failures == 1 or not isinstance(error, Unavailable):
                    logger.warning("the outbox waits", exc_info=error)
                self._pause(failures)

    def _pause(self, failures: int) -> None:
        # Not cut short by news: a dead Redis is not asked again for every event.
        until = time.monotonic() + min(0.1 * 2 ** min(failures, 6), MAX_PAUSE_S) * random.random()  # noqa: S311
        while not self._stopping and time.monotonic() < until:
            time.sleep(0.05)

    def _measure(self) -> None:
        if time.monotonic() < self._next_measure:
            return
        self._next_measure = time.monotonic() + MEASURE_EVERY_S
        table = self.table
        with reading(self._engine) as session:
            waiting = session.scalar(
                select(func.count()).select_from(table).where(table.c.sent.is_(None))
            )
        UNSENT.labels(table.name).set(waiting or 0)


def _event(row: Row[tuple[object, ...]]) -> Event:
    return Event(
        stream=row.stream,
        key=row.key,
        type=row.type,
        payload=bytes(row.payload),
        id=row.event_id,
        traceparent=row.traceparent,
        occurred=row.occurred,
    )


def _outbox_name(engine: Engine, table: Table) -> str:
    """A name that differs between the outboxes of a suite, whatever process asks."""
    url = engine.url
    place = f"{url.database}?{sorted(url.query.items())}#{table.name}"
    return hashlib.sha256(place.encode()).hexdigest()[:16]
