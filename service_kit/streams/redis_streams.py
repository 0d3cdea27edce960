"""The appending side of the streams, quick to give up: a reply may wait on it."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from service_kit import metrics
from service_kit.errors import Unavailable
from service_kit.streams import bounds
from service_kit.streams.events import Event, encode_event

APPEND_TIMEOUT_S = 0.1
BACKGROUND_TIMEOUT_S = 5.0
#: Seconds between two looks at how large a stream is.
LOOK_S = 2.0
_PIPELINE = 1_000

_log = logging.getLogger(__name__)
_overflowed = metrics.counter(
    "stream_overflow_total", "Events dropped because their stream was too large.", ("stream",)
)


def connect(url: str, timeout: float) -> redis.Redis:
    """A client that returns bytes, never retries and gives up after `timeout` seconds."""
    client: redis.Redis = redis.Redis.from_url(
        url,
        decode_responses=False,
        socket_timeout=timeout,
        socket_connect_timeout=timeout,
        retry=Retry(NoBackoff(), 0),
        retry_on_error=[],
    )
    return client


class EventStreams:
    """Appends to and measures the streams under one prefix; safe to share between threads.

    Args:
        redis_url: ``redis://host:port/db``, ``rediss://`` or ``unix://``.
        prefix: Streams are the keys ``{prefix}:{stream}``.
        maxlen: Events kept of a stream, approximately; the oldest go first, uncounted. Large, as
            `most_bytes` is what bounds a stream.
        most_bytes: Memory that a stream may take, about: looked at each `LOOK_S` by whoever
            appends. What nobody has read by then is lost, counted and logged.
        timeout: Seconds until a command gives up.
    """

    def __init__(
        self,
        redis_url: str,
        prefix: str,
        maxlen: int = 10_000_000,
        *,
        most_bytes: int = bounds.MOST_BYTES,
        timeout: float = APPEND_TIMEOUT_S,
    ) -> None:
        self.redis_url = redis_url
        self.prefix = prefix
        self._maxlen = maxlen
        self._most_bytes = most_bytes
        self._next_look: dict[str, float] = {}
        self._client = connect(redis_url, timeout)

    def patient(self) -> EventStreams:
        """The same streams with a timeout for background work, where nobody waits for a reply."""
        return EventStreams(
            *(self.redis_url, self.prefix, self._maxlen),
            most_bytes=self._most_bytes,
            timeout=BACKGROUND_TIMEOUT_S,
        )

    def key(self, stream: str) -> str:
        """The Redis key of a stream."""
        return f"{self.prefix}:{stream}"

    def append(self, stream: str, events: Sequence[Event]) -> None:
        """Append the events in their order; a failure may leave a part of them appended.

        Raises Unavailable (``STREAM_UNAVAILABLE``) within a fraction of a second.
        """
        key = self.key(stream)
        with unavailable():
            for start in range(0, len(events), _PIPELINE):
                pipeline = self._client.pipeline(transaction=False)
                for event in events[start : start + _PIPELINE]:
                    fields: Any = encode_event(event)
                    pipeline.xadd(key, fields, maxlen=self._maxlen, approximate=True)
                pipeline.execute()
            self._keep_small(stream)

    def _keep_small(self, stream: str) -> None:
        now = time.monotonic()
        if now < self._next_look.get(stream, 0.0):
            return
        self._next_look[stream] = now + LOOK_S
        try:
            gone = bounds.trim_bytes(self._client, self.key(stream), self._most_bytes)
        except redis.RedisError as error:
            # What was appended is there all the same; a later append looks again.
            _log.warning("a stream can't be measured", extra={"error": type(error).__name__})
            return
        if gone:
            _overflowed.labels(stream).inc(gone)
            _log.warning("a stream was too large", extra={"stream": stream, "dropped": gone})

    def length(self, stream: str) -> int:
        """How many events the stream holds."""
        with unavailable():
            return int(self._client.xlen(self.key(stream)))  # type: ignore[arg-type]

    def mark(self, name: str, position: int) -> None:
        """Remember how far a sender came; lost whenever Redis loses what was sent before."""
        with unavailable():
            self._client.set(self.key(f"sent:{name}"), position)

    def marked(self, name: str) -> int:
        """The last position that was marked, 0 when there is none."""
        with unavailable():
            found: Any = self._client.get(self.key(f"sent:{name}"))
        return int(found) if found else 0

    def ping(self) -> None:
        """Raises Unavailable when Redis does not answer."""
        with unavailable():
            self._client.ping()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


@contextmanager
def unavailable() -> Iterator[None]:
    """Turn an error of the client library into Unavailable."""
    try:
        yield
    except redis.RedisError as error:
        raise Unavailable("STREAM_UNAVAILABLE", "the event streams do not answer") from error
