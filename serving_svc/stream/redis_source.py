"""Streams of events in Redis, under keys that are made of ids alone."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import redis

from service_kit.errors import DomainError, NotFound, Unavailable
from service_kit.ids import uuid7_str
from service_kit.streams.redis_streams import BACKGROUND_TIMEOUT_S, connect, unavailable
from serving_svc.domain.scorer_events import Ending, Entry, Kind
from serving_svc.domain.scorers import Progress, Start, StreamScorer
from serving_svc.stream.scripts import FINISH, FORGET, LEAVE, OPEN

#: How often consumers that are gone are dropped, and after what idle time, in seconds.
_CARE_S = 600.0
_GONE_S = 3_600.0
#: For how long nobody can make the group of a deleted scorer again, in seconds.
_TOMB_S = 86_400
_GONE = ("NOGROUP", "UNBLOCKED")
#: Timeout of what a caller waits for.
_QUICK_S = 0.5
#: Events finished by one run of the script: a few milliseconds, in which Redis serves nobody else.
_AT_ONCE = 128
_KINDS = (Kind.RESULT, Kind.DEAD_LETTER, Kind.REPEAT)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_log = logging.getLogger(__name__)


class ScorerKeys:
    """The Redis keys of a scorer.

    Streams of events lie below `{prefix}:events:`, where none of the suite's own is; what a scorer
    keeps beside them lies elsewhere, out of reach of who may only use the streams.
    """

    def __init__(self, prefix: str, scorer: StreamScorer) -> None:
        self.source = self.stream(prefix, scorer.source)
        self.results = self.stream(prefix, scorer.results)
        self.dead_letters = self.stream(prefix, scorer.dead_letters)
        self.answered = f"{prefix}:scorers:{scorer.uid}:answered"
        self.progress = f"{prefix}:scorers:{scorer.uid}:progress"

    @staticmethod
    def stream(prefix: str, stream: str) -> str:
        """The key of a stream of events."""
        return f"{prefix}:events:{stream}"


class RedisScorerStreams:
    """The streams of all scorers; safe to share between threads.

    Args:
        claim_after: Idle time after which a consumer's unfinished events are taken over.
    """

    def __init__(self, redis_url: str, prefix: str, claim_after: timedelta) -> None:
        self._url = redis_url
        self._prefix = prefix
        self._claim_after = claim_after
        self._client = connect(redis_url, _QUICK_S)
        self._forget: Any = self._client.register_script(FORGET)

    def keys(self, scorer: StreamScorer) -> ScorerKeys:
        """The keys of a scorer."""
        return ScorerKeys(self._prefix, scorer)

    def names(self, scorer: StreamScorer) -> tuple[str, str, str]:
        """The keys of a scorer's source, results and dead letters."""
        keys = self.keys(scorer)
        return keys.source, keys.results, keys.dead_letters

    def source(self, scorer: StreamScorer) -> RedisSource:
        """A new consumer of a scorer's group, with a connection of its own."""
        return RedisSource(self._url, self.keys(scorer), scorer, self._claim_after)

    def open(self, scorer: StreamScorer) -> None:
        """Make a scorer's group, unless it is there; raises Unavailable."""
        with answering():
            _open(self._client, self.keys(scorer), scorer)

    def progress(self, scorer: StreamScorer) -> Progress:
        """How far a scorer is; raises Unavailable."""
        keys = self.keys(scorer)
        pipeline = self._client.pipeline(transaction=True)
        pipeline.hgetall(keys.progress)
        pipeline.xinfo_groups(keys.source)
        with answering():
            counts, groups = pipeline.execute(raise_on_error=False)
            if isinstance(counts, redis.RedisError):
                raise counts
        # The stream, and its groups, are made by the first who needs them.
        known: Any = [] if isinstance(groups, redis.ResponseError) else groups
        ours = (each for each in known if each["name"] == scorer.group.encode())
        group: dict[str, Any] = next(ours, {})
        at = counts.get(b"error_ms")
        return Progress(
            scored=int(counts.get(b"result", 0)),
            refused=int(counts.get(b"dead", 0)),
            repeated=int(counts.get(b"repeat", 0)),
            pending=group.get("pending", 0),
            lag=group.get("lag"),
            last_error=counts.get(b"error", b"").decode(),
            last_error_time=_EPOCH + timedelta(milliseconds=int(at)) if at else None,
        )

    def forget(self, scorer: StreamScorer) -> None:
        """Remove a scorer's group and what it keeps; the streams stay. Raises Unavailable."""
        keys = self.keys(scorer)
        with answering():
            self._forget(
                keys=[keys.source, keys.progress, keys.answered], args=[scorer.group, _TOMB_S]
            )


class RedisSource:
    """One consumer of a scorer's group; for one thread."""

    def __init__(
        self, redis_url: str, keys: ScorerKeys, scorer: StreamScorer, claim_after: timedelta
    ) -> None:
        self._scorer = scorer
        self._keys = keys
        self._claim_ms = int(claim_after.total_seconds() * 1_000)
        self._name = f"{socket.gethostname()}-{os.getpid()}-{uuid7_str()[-8:]}"
        self._client = connect(redis_url, BACKGROUND_TIMEOUT_S)
        self._finish: Any = self._client.register_script(FINISH)
        self._leave: Any = self._client.register_script(LEAVE)
        self._opened = False
        self._claim_at = 0.0
        self._care_at = time.monotonic() + _CARE_S

    def read(self, count: int, block: float) -> Sequence[Entry]:
        """New entries; raises Unavailable."""
        # A block of 0 would wait for ever.
        return self._read(">", count, int(block * 1_000) or None)

    def own(self, count: int) -> Sequence[Entry]:
        """Entries of this consumer that are not finished; reading them keeps others off."""
        return self._read("0", count, None)

    def claim(self, count: int) -> Sequence[Entry]:
        """Entries that others have left lying; looks now and then only. Raises Unavailable."""
        now = time.monotonic()
        if now < self._claim_at:
            return []
        with self._here():
            answer: Any = self._client.xautoclaim(
                self._keys.source, self._scorer.group, self._name, self._claim_ms, count=count
            )
            if now >= self._care_at:
                self._drop_consumers("")
                self._care_at = now + _CARE_S
        found = _entries(answer[1])
        if len(found) < count:
            self._claim_at = now + self._claim_ms / 2_000
        if answer[2:] and answer[2]:
            # Trimmed by their producer before anybody had finished them.
            facts = {"scorer": self._scorer.name, "events": len(answer[2])}
            _log.warning("events are gone from their stream", extra=facts)
        return found

    def answered(self, event_ids: Sequence[str]) -> set[str]:
        """Those that have a result; raises Unavailable."""
        with self._here():
            scores: Any = self._client.zmscore(self._keys.answered, list(event_ids))
        return {each for each, score in zip(event_ids, scores, strict=True) if score is not None}

    def finish(self, endings: Sequence[Ending]) -> dict[Kind, int]:
        """Append and acknowledge each in one step; raises Unavailable."""
        counts: Counter[Kind] = Counter()
        for start in range(0, len(endings), _AT_ONCE):
            counts.update(self._finish_some(endings[start : start + _AT_ONCE]))
        return dict(counts)

    def _finish_some(self, endings: Sequence[Ending]) -> dict[Kind, int]:
        keys, scorer = self._keys, self._scorer
        given: list[Any] = [
            scorer.group,
            int(scorer.dedupe_window.total_seconds() * 1_000),
            scorer.dedupe_limit,
            scorer.result_limit,
        ]
        for each in endings:
            flat = [part for field in each.fields.items() for part in field]
            given += [str(each.kind), each.entry_id, each.event_id, len(flat), *flat]
        names = [keys.source, keys.results, keys.dead_letters, keys.answered, keys.progress]
        with self._here():
            counts = self._finish(keys=names, args=given)
        return dict(zip(_KINDS, counts, strict=True))

    def note(self, reason: str) -> None:
        """Remember why events wait; raises Unavailable."""
        facts = {"error": reason, "error_ms": time.time_ns() // 1_000_000}
        with self._here():
            self._client.hset(self._keys.progress, mapping=facts)

    def close(self) -> None:
        """Leave the group, unless something is unfinished, and hang up."""
        try:
            with answering():
                self._drop_consumers(self._name)
        except DomainError:
            pass  # whoever stays drops it
        finally:
            self._client.close()

    def _read(self, position: str, count: int, block_ms: int | None) -> list[Entry]:
        with self._here():
            found: Any = self._client.xreadgroup(
                self._scorer.group,
                self._name,
                {self._keys.source: position},
                count=count,
                block=block_ms,
            )
        return _entries(found[0][1]) if found else []

    def _drop_consumers(self, leaving: str) -> None:
        arguments = [self._scorer.group, leaving, int(_GONE_S * 1_000)]
        self._leave(keys=[self._keys.source], args=arguments)

    @contextmanager
    def _here(self) -> Iterator[None]:
        """Around every command: the group was made, and errors of the client are ours."""
        with answering():
            if not self._opened:
                _open(self._client, self._keys, self._scorer)
                self._opened = True
            yield


@contextmanager
def answering() -> Iterator[None]:
    """Turn an error of the client library into Unavailable, or NotFound when the group is gone."""
    with unavailable():
        try:
            yield
        except redis.ResponseError as error:
            if str(error).startswith(_GONE):
                raise NotFound(
                    "GROUP_NOT_FOUND", "the scorer has no place in its source"
                ) from error
            if "WRONGTYPE" in str(error):
                raise Unavailable("NOT_A_STREAM", "a key of the scorer holds no stream") from error
            raise


def _open(client: redis.Redis, keys: ScorerKeys, scorer: StreamScorer) -> None:
    start = "$" if scorer.start is Start.LATEST else "0"
    client.eval(OPEN, 2, keys.source, keys.progress, scorer.group, start)


def _entries(raw: Iterable[Any]) -> list[Entry]:
    return [Entry(entry_id.decode(), fields or None) for entry_id, fields in raw]
