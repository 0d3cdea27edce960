"""The appending side of the streams, quick to give up: a reply may wait on it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from service_kit.errors import Unavailable
from service_kit.streams.events import Event, encode_event

APPEND_TIMEOUT_S = 0.1
BACKGROUND_TIMEOUT_S = 5.0
_PIPELINE = 1_000


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
        maxlen: Events kept of a stream, approximately; the oldest go first. An event is a batch of
            up to 500 rows and some 10 kB.
        timeout: Seconds until a command gives up.
    """

    def __init__(
        self,
        redis_url: str,
        prefix: str,
        maxlen: int = 200_000,
        *,
        timeout: float = APPEND_TIMEOUT_S,
    ) -> None:
        self.redis_url = redis_url
        self.prefix = prefix
        self._maxlen = maxlen
        self._client = connect(redis_url, timeout)

    def patient(self) -> EventStreams:
        """The same streams with a timeout for background work, where nobody waits for a reply."""
        return EventStreams(self.redis_url, self.prefix, self._maxlen, timeout=BACKGROUND_TIMEOUT_S)

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
