"""The consuming side: at least once from Redis, effectively once into SQL."""

from __future__ import annotations

import logging
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import redis
from sqlalchemy import Engine, Table
from sqlalchemy.orm import Session

from service_kit import metrics
from service_kit.database import transaction
from service_kit.errors import DomainError, Unavailable
from service_kit.ids import uuid7_str
from service_kit.streams.bounds import trim_read
from service_kit.streams.consumed import forget, remember
from service_kit.streams.events import Event, decode_event
from service_kit.streams.redis_streams import (
    BACKGROUND_TIMEOUT_S,
    EventStreams,
    connect,
    unavailable,
)

Handler = Callable[[Session, Sequence[Event]], None]

logger = logging.getLogger(__name__)

BLOCK_S = 0.5
DEAD_MAXLEN = 100_000
GAUGE_EVERY_S = 5.0
PRUNE_EVERY_S = 600.0
#: Seconds for which an answer that somebody wants the events holds.
WANTED_S = 5.0
#: Seconds between two questions while nobody does.
UNWANTED_S = 2.0
LAST_OF_A_MS = 2**64 - 1

EVENTS = metrics.counter(
    "stream_events_total", "Events taken from a stream.", ["stream", "group", "outcome"]
)
LAG = metrics.gauge("stream_lag", "Events not yet read by the group.", ["stream", "group"])
PENDING = metrics.gauge(
    "stream_pending", "Events read and not yet acknowledged.", ["stream", "group"]
)
AGE = metrics.gauge(
    "stream_age_seconds",
    "Age of the last event of the last batch when it was taken.",
    ["stream", "group"],
)


@dataclass(frozen=True, slots=True)
class _Entry:
    id: bytes
    fields: dict[bytes, bytes]
    event: Event


@dataclass(frozen=True, slots=True)
class _Parked:
    entry: _Entry
    tries: int
    due: float


class StreamConsumer:
    """Feeds the events of one stream to a handler, in batches, on a thread of its own.

    The handler writes by the session it is given; the ids of the events and its effect are
    committed together and acknowledged afterwards, so an event that comes twice takes effect
    once. When the handler raises, the batch is halved until the event at fault is alone; that
    one is tried again later and goes to ``{stream}.dead`` after `tries` failures, while the
    others go on. Unavailable is nobody's fault: the whole batch waits.

    Args:
        engine: Database of `table` and of what the handler writes.
        table: From `consumed.consumer_table`.
        streams: Where the stream lives.
        group: Name of the consumer group, one for each service and purpose.
        stream: Name of the stream, without prefix.
        handle: Takes the session and 1 to `batch` events, each new.
        batch: Most events at a time.
        tries: How often an event is tried before it is set aside.
        claim_after: Idle time after which another consumer's unfinished events are taken over.
        dedupe_for: How long ids are remembered; shorter on a stream of many events.
        gather: Seconds that events are left to gather before the next batch is taken, on a stream
            where a transaction for each would cost more than the events themselves.
        trim: Whether to drop from the stream what all its groups are done with: on a stream that
            nobody reads for its past.
        wanted: Whether anybody wants what comes now; what comes while nobody does is passed over
            without being read.
    """

    def __init__(
        self,
        engine: Engine,
        table: Table,
        streams: EventStreams,
        group: str,
        stream: str,
        handle: Handler,
        batch: int = 500,
        *,
        tries: int = 5,
        retry_after: float = 0.2,
        claim_after: timedelta = timedelta(seconds=60),
        dedupe_for: timedelta = timedelta(days=7),
        gather: float = 0.0,
        trim: bool = False,
        wanted: Callable[[], bool] | None = None,
    ) -> None:
        self._engine = engine
        self._table = table
        self._streams = streams
        self._group = group
        self._stream = stream
        self._handle = handle
        self._batch = batch
        self._tries = tries
        self._retry_after = retry_after
        self._claim_after = claim_after
        self._dedupe_for = dedupe_for
        self._gather = gather
        self._trim = trim
        self._wanted = wanted
        self._key = streams.key(stream)
        self._name = f"{socket.gethostname()}-{os.getpid()}-{uuid7_str()[-8:]}"
        self._client = connect(streams.redis_url, BACKGROUND_TIMEOUT_S)
        self._ready = False
        self._wanted_until = 0.0
        self._held: list[_Entry] = []
        self._parked: dict[bytes, _Parked] = {}
        self._claim_from: Any = "0-0"
        self._due = {"claim": 0.0, "gauge": 0.0, "prune": time.monotonic() + PRUNE_EVERY_S}
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to consume."""
        self._stopping.clear()
        self._thread = threading.Thread(
            target=self._run, name=f"consume-{self._stream}", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Finish the batch at hand, leave the group if nothing is pending, and close."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(timeout=BACKGROUND_TIMEOUT_S)
            self._thread = None
        try:
            if self._ready and not self._held and not self._parked:
                self._client.xgroup_delconsumer(self._key, self._group, self._name)
        except redis.RedisError:
            logger.debug("the consumer of %s could not leave its group", self._stream)
        self._client.close()

    def poll_once(self, block: float = 0.0) -> int:
        """Take one batch, waiting up to `block` seconds for it; gives the number of events read.

        Raises Unavailable when Redis or the database does not answer; nothing is lost by that.
        """
        try:
            with unavailable():
                return self._poll(block)
        except Unavailable as error:
            # A Redis that was lost and rebuilt lacks the group; making it again is harmless.
            self._ready = self._ready and not isinstance(error.__cause__, redis.RedisError)
            raise

    def _run(self) -> None:
        failures = 0
        while not self._stopping.is_set():
            try:
                taken = self.poll_once(BLOCK_S)
                if failures:
                    logger.info("consuming %s again", self._stream)
                failures = 0
                if 0 < taken < self._batch:
                    self._stopping.wait(self._gather)
            except Exception as error:
                failures += 1
                if failures == 1 or not isinstance(error, Unavailable):
                    logger.warning("consuming %s failed", self._stream, exc_info=error)
                pause = min(0.1 * 2 ** min(failures, 6), 5.0)
                self._stopping.wait(pause * random.uniform(0.5, 1.0))  # noqa: S311

    def _poll(self, block: float) -> int:
        self._ensure_group()
        self._retry_parked()
        if not self._held:
            self._held = self._claim()
        if not self._held:
            self._held = self._pass_over(block) if self._passes_over() else self._read(block)
        taken = len(self._held)
        if self._held:
            newest = self._held[-1].event.occurred
            AGE.labels(self._stream, self._group).set((datetime.now(UTC) - newest).total_seconds())
            self._process(self._held)
            self._held = []
        self._measure()
        self._prune()
        return taken

    def _ensure_group(self) -> None:
        if self._ready:
            return
        try:
            self._client.xgroup_create(self._key, self._group, id="0", mkstream=True)
        except redis.ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise
        self._ready = True

    def _passes_over(self) -> bool:
        """Whether nobody wants what comes; what has come by now is passed over then."""
        if self._wanted is None or time.monotonic() < self._wanted_until:
            return False
        # First the time, then the question: what comes once somebody wants it is later. The time is
        # the server's, as in the ids of events; looking at the stream would give whole events.
        now: Any = self._client.time()
        if self._wanted():
            self._wanted_until = time.monotonic() + WANTED_S
            return False
        millis = now[0] * 1_000 + now[1] // 1_000
        before = f"{millis - 1}-{LAST_OF_A_MS}"
        self._client.xgroup_setid(self._key, self._group, before)
        return True

    def _pass_over(self, block: float) -> list[_Entry]:
        self._stopping.wait(UNWANTED_S if block else 0.0)
        return []

    def _read(self, block: float) -> list[_Entry]:
        parked = [item.due - time.monotonic() for item in self._parked.values()]
        wait_ms = int(1000 * max(0.0, min([block, *parked])))
        found: Any = self._client.xreadgroup(
            self._group,
            self._name,
            {self._key: ">"},
            count=self._batch,
            # A block of 0 would wait for ever.
            block=wait_ms or None,
        )
        return self._entries(found[0][1]) if found else []

    def _claim(self) -> list[_Entry]:
        """Entries that a consumer took and never finished, this one's earlier life included."""
        idle_s = self._claim_after.total_seconds()
        if not self._is_due("claim", idle_s / 2):
            return []
        answer: Any = self._client.xautoclaim(
            self._key,
            self._group,
            self._name,
            min_idle_time=int(idle_s * 1000),
            start_id=self._claim_from,
            count=self._batch,
        )
        self._claim_from = answer[0]
        if self._claim_from not in (b"0-0", "0-0"):
            self._due["claim"] = 0.0
        return [entry for entry in self._entries(answer[1]) if entry.id not in self._parked]

    def _entries(self, raw: Iterable[tuple[bytes, dict[bytes, bytes] | None]]) -> list[_Entry]:
        entries = []
        for entry_id, fields in raw:
            try:
                entries.append(
                    _Entry(entry_id, fields or {}, decode_event(self._stream, fields or {}))
                )
            except ValueError as error:
                self._bury(entry_id, fields or {}, error)
        return entries

    def _process(self, entries: Sequence[_Entry]) -> None:
        try:
            fresh = self._apply([entry.event for entry in entries])
        except Unavailable:
            raise
        except Exception as error:
            if len(entries) == 1:
                self._park(entries[0], error)
                return
            middle = len(entries) // 2
            self._process(entries[:middle])
            self._process(entries[middle:])
            return
        self._client.xack(self._key, self._group, *[entry.id for entry in entries])
        for entry in entries:
            self._parked.pop(entry.id, None)
        self._count("handled", fresh)
        self._count("duplicate", len(entries) - fresh)

    def _apply(self, events: Sequence[Event]) -> int:
        by_id = {event.id: event for event in events}
        with transaction(self._engine) as session:
            fresh = remember(session, self._table, self._consumer, by_id)
            new = [event for event in by_id.values() if event.id in fresh]
            if new:
                self._handle(session, new)
        return len(new)

    @property
    def _consumer(self) -> str:
        return f"{self._group}/{self._stream}"

    def _retry_parked(self) -> None:
        now = time.monotonic()
        for item in [item for item in self._parked.values() if item.due <= now]:
            self._process([item.entry])

    def _park(self, entry: _Entry, error: Exception) -> None:
        before = self._parked.get(entry.id)
        tries = 1 + (before.tries if before else 0)
        if tries >= self._tries:
            self._bury(entry.id, entry.fields, error)
            return
        due = time.monotonic() + self._retry_after * 2 ** (tries - 1)
        self._parked[entry.id] = _Parked(entry, tries, due)
        self._count("retried", 1)

    def _bury(self, entry_id: bytes, fields: dict[bytes, bytes], error: Exception) -> None:
        """Set an event aside with the reason; the message of a foreign error may echo data."""
        reason = error.reason if isinstance(error, DomainError) else type(error).__name__
        if fields:
            dead: Any = {**fields, b"group": self._group.encode(), b"error": reason.encode()}
            self._client.xadd(f"{self._key}.dead", dead, maxlen=DEAD_MAXLEN, approximate=True)
        self._client.xack(self._key, self._group, entry_id)
        self._parked.pop(entry_id, None)
        self._count("dead", 1)
        logger.error(
            "an event of %s could not be handled by %s and was set aside",
            self._stream,
            self._group,
            exc_info=error,
        )

    def _count(self, outcome: str, number: int) -> None:
        if number:
            EVENTS.labels(self._stream, self._group, outcome).inc(number)

    def _is_due(self, task: str, every: float) -> bool:
        now = time.monotonic()
        if now < self._due[task]:
            return False
        self._due[task] = now + every
        return True

    def _measure(self) -> None:
        if not self._is_due("gauge", GAUGE_EVERY_S):
            return
        groups: Any = self._client.xinfo_groups(self._key)
        for group in groups:
            if group["name"] == self._group.encode():
                # Unknown (None) for a while after the stream was trimmed past the group.
                LAG.labels(self._stream, self._group).set(group["lag"] or 0)
                PENDING.labels(self._stream, self._group).set(group["pending"])
        if self._trim:
            trim_read(self._client, self._key)

    def _prune(self) -> None:
        if not self._is_due("prune", PRUNE_EVERY_S):
            return
        before = datetime.now(UTC) - self._dedupe_for
        with transaction(self._engine) as session:
            if not forget(session, self._table, self._consumer, before):
                self._due["prune"] = time.monotonic() + 1.0
