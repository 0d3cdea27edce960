"""A stream scorer under keys of its own, for tests."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
import redis

from service_kit.errors import Unavailable
from service_kit.ids import uuid7_str
from serving_svc.domain.scorer_events import (
    Answer,
    Event,
)
from serving_svc.domain.scorers import Progress, StreamScorer
from serving_svc.service.stream_scoring import ScoringLoop
from serving_svc.stream import RedisScorerStreams, RedisSource
from tests.serving_svc.stream_process import CLAIM_AFTER, double, scorer


@dataclass
class Inference:
    """An endpoint that doubles `n`, and what it was asked."""

    asked: list[str] = field(default_factory=list)
    answer: Callable[[Event], Answer] = double
    away: bool = False
    meanwhile: Callable[[], object] = lambda: None

    def score(self, endpoint_id: str, events: Sequence[Event]) -> Sequence[Answer]:
        assert endpoint_id == "late"
        if self.away:
            raise Unavailable("OVERLOADED", "too many requests")
        self.asked += [event.event_id for event in events]
        answers = [self.answer(event) for event in events]
        self.meanwhile()
        return answers


class Stream:
    """A scorer with its streams, under keys of this test."""

    def __init__(self, url: str, prefix: str) -> None:
        self.url, self.prefix = url, prefix
        self.client = redis.Redis.from_url(url)
        self.streams = RedisScorerStreams(url, prefix, CLAIM_AFTER)
        self.inference = Inference()
        self.sources: list[RedisSource] = []
        self.use()

    def use(self, **given: Any) -> None:
        """A new scorer."""
        self.scorer: StreamScorer = scorer(uuid7_str(), **given)
        self.keys = self.streams.keys(self.scorer)

    def loop(self) -> ScoringLoop:
        """Another consumer."""
        self.sources.append(self.streams.source(self.scorer))
        return ScoringLoop(self.scorer, self.sources[-1], self.inference)

    def append(self, event_id: str, data: Any, **more: Any) -> str:
        fields = {"id": event_id, "data": orjson.dumps(data), **more}
        return str(self.client.xadd(self.keys.source, fields).decode())

    def numbers(self, *numbers: int) -> None:
        for number in numbers:
            self.append(f"e{number}", {"n": number})

    def results(self) -> list[tuple[str, float]]:
        found = self.client.xrange(self.keys.results)
        return [
            (each[b"id"].decode(), orjson.loads(each[b"data"])["outputs"]["y"]) for _, each in found
        ]

    def dead(self) -> list[dict[bytes, bytes]]:
        return [fields for _, fields in self.client.xrange(self.keys.dead_letters)]

    def progress(self) -> Progress:
        return self.streams.progress(self.scorer)

    def close(self) -> None:
        for source in self.sources:
            source.close()
        for key in self.client.scan_iter(match=f"{self.prefix}:*"):
            self.client.delete(key)
        self.client.close()


def run(loop: ScoringLoop, until: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < deadline, "it did not happen in time"
        loop.poll_once(0.01)
        time.sleep(loop.wait_s())


def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)
