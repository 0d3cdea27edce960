"""Redis: reads in one round trip, writes that never put an older row over a newer one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, TypeVar

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from feature_svc.domain.online import layout
from feature_svc.domain.online.cells import Reply
from feature_svc.domain.online.plan import Command
from feature_svc.domain.online.rows import OnlineRow
from service_kit.errors import Unavailable

READ_TIMEOUT_S = 0.1
WRITE_TIMEOUT_S = 5.0
BATCH = 500
T = TypeVar("T")

# ARGV: seconds and nanoseconds of the row, then field, value, ... with the time first.
# Equal times are written: of two such rows the one that comes later counts.
_PUT = """
local stored = redis.call('HGET', KEYS[1], ARGV[3])
if stored then
  local seconds, nanos, at = 0, 0, 1
  while at <= #stored do
    local tag, value, scale, byte = string.byte(stored, at), 0, 1, 128
    while byte >= 128 do
      at = at + 1
      byte = string.byte(stored, at)
      value = value + (byte % 128) * scale
      scale = scale * 128
    end
    at = at + 1
    if tag == 8 then seconds = value elseif tag == 16 then nanos = value end
  end
  local s, n = tonumber(ARGV[1]), tonumber(ARGV[2])
  if s < seconds or (s == seconds and n < nanos) then return 0 end
end
redis.call('HSET', KEYS[1], unpack(ARGV, 3))
return 1
"""
_RAISE = """
local stored = redis.call('HGET', KEYS[1], ARGV[1])
if not stored or tonumber(stored) < tonumber(ARGV[2]) then
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
end
return 1
"""


class HeldReads:
    """Reads over a connection of its own, for one thread: a pool's part of a read is half of it.

    Args:
        url: Address of Redis, `redis://host:port/db`.
        project: Feast's project: it ends the key of every row.
    """

    def __init__(self, url: str, project: str) -> None:
        self.project = project
        self._pool = _pool(url, READ_TIMEOUT_S)
        self._connection: Any = None

    def read(self, commands: Sequence[Command]) -> list[Reply]:
        """As `RedisOnlineStore.read`.

        Raises:
            Unavailable: `ONLINE_STORE_UNAVAILABLE`, without a second try, unless Redis has hung
                up since the last read.
        """
        if not commands:
            return []
        packed = b"".join(map(_packed, commands))
        with _translated():
            held = self._connection
            if held is not None:
                try:
                    return self._exchange(held, packed, len(commands))
                except redis.ConnectionError:
                    pass  # it was ended while it rested: a new one will say whether Redis is there
            self._connection = self._pool.get_connection()
            return self._exchange(self._connection, packed, len(commands))

    def close(self) -> None:
        """Closes the connection."""
        self._pool.disconnect()

    def _exchange(self, connection: Any, packed: bytes, replies: int) -> list[Reply]:
        try:
            return _exchanged(connection, packed, replies)
        except BaseException:
            self._connection = None
            self._pool.release(connection)
            raise


class RedisOnlineStore:
    """The online store.

    Args:
        url: Address of Redis, `redis://host:port/db`.
        project: Feast's project: it ends the key of every row.
    """

    def __init__(self, url: str, project: str) -> None:
        self.project = project
        self._url = url
        self._readers = _pool(url, READ_TIMEOUT_S)
        self._writer = redis.Redis(connection_pool=_pool(url, WRITE_TIMEOUT_S))

    def ping(self) -> None:
        """Raises unless Redis answers."""
        with _translated():
            redis.Redis(connection_pool=self._readers).ping()

    def read(self, commands: Sequence[Command]) -> list[Reply]:
        """The values of each command's fields, in one round trip of at most 100 ms.

        Raises:
            Unavailable: `ONLINE_STORE_UNAVAILABLE`, at once and without a second try.
        """
        if not commands:
            return []
        packed = b"".join(map(_packed, commands))
        with _translated():
            connection = self._readers.get_connection()
            try:
                return _exchanged(connection, packed, len(commands))
            finally:
                self._readers.release(connection)

    def held(self) -> HeldReads:
        """Reads of the same store for one thread that does little else."""
        return HeldReads(self._url, self.project)

    def write(self, view: str, rows: Sequence[OnlineRow]) -> int:
        """Writes rows of a view, less those older than what is there; gives the number written.

        Raises:
            Unavailable: `ONLINE_STORE_UNAVAILABLE`; some of the rows may be written by then.
        """
        if not rows:
            return 0
        with _translated():
            written = put(self._writer, view, rows)
            newest = max(row.time_us for row in rows)
            self._writer.eval(_RAISE, 1, self._newest_key, view, newest)
        return written

    def newest(self, view: str) -> int | None:
        """Time of the newest row of a view in microseconds, when there is one."""
        with _translated():
            found: Any = redis.Redis(connection_pool=self._readers).hget(self._newest_key, view)
        return None if found is None else int(found)

    def close(self) -> None:
        """Closes all connections."""
        self._readers.disconnect()
        self._writer.connection_pool.disconnect()

    @property
    def _newest_key(self) -> str:
        return f"{self.project}:features:newest"


def put(client: Any, view: str, rows: Iterable[OnlineRow]) -> int:
    """Sets each row unless a newer one is there, each atomically; gives the number set."""
    script = client.script_load(_PUT)
    field, written = layout.time_field(view), 0
    for batch in _batches(rows, BATCH):
        with client.pipeline(transaction=False) as pipe:
            for row in batch:
                seconds, rest = divmod(row.time_us, 1_000_000)
                stamp = layout.encode_time(row.time_us)
                pipe.evalsha(script, 1, row.key, seconds, rest * 1000, field, stamp, *row.fields)
            written += sum(pipe.execute())
    return written


def _batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def _exchanged(connection: Any, packed: bytes, replies: int) -> list[Reply]:
    try:
        connection.send_packed_command([packed], check_health=False)
        return [connection.read_response(disable_decoding=True) for _ in range(replies)]
    except BaseException:
        # What was not read yet would be taken for the answer to the next read.
        connection.disconnect()
        raise


def _packed(command: Command) -> bytes:
    return _head(len(command.fields)) + _bulk(command.key) + _tail(command.fields)


def _bulk(data: bytes) -> bytes:
    return b"$%d\r\n%s\r\n" % (len(data), data)


def _head(fields: int) -> bytes:
    return b"*%d\r\n$5\r\nHMGET\r\n" % (fields + 2)


_tails: dict[tuple[bytes, ...], bytes] = {}


def _tail(fields: tuple[bytes, ...]) -> bytes:
    found = _tails.get(fields)
    if found is None:
        if len(_tails) > 10_000:
            _tails.clear()
        found = _tails[fields] = b"".join(map(_bulk, fields))
    return found


def _pool(url: str, timeout: float) -> Any:
    return redis.BlockingConnectionPool.from_url(
        url,
        max_connections=64,
        timeout=timeout,
        socket_timeout=timeout,
        socket_connect_timeout=min(timeout, 1.0),
        retry=Retry(NoBackoff(), 0),
        health_check_interval=0,
    )


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (redis.RedisError, OSError) as error:
        raise Unavailable("ONLINE_STORE_UNAVAILABLE", "the online store does not answer") from error
