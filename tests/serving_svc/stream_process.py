"""A stream scorer at work in a process of its own, to be killed; its arguments are JSON."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from serving_svc.domain.scorer_events import Answer, Event, Fate, Prediction, Problem
from serving_svc.domain.scorers import StreamScorer, checked
from serving_svc.service.scoring_supervisor import ScoringSupervisor
from serving_svc.stream import RedisScorerStreams

CLAIM_AFTER = timedelta(milliseconds=150)


def scorer(uid: str, **given: Any) -> StreamScorer:
    """A scorer of the stream `flights`."""
    asked = StreamScorer(uid, "late", "orders", "flights", datetime(2013, 4, 1, tzinfo=UTC))
    return checked(replace(asked, **given))


def double(event: Event) -> Answer:
    """Twice the input; events without one are refused."""
    number = orjson.loads(event.instance).get("n")
    if number is None:
        return Problem(Fate.REFUSED, "FIELD_MISSING", "n")
    return Prediction({"y": 2 * number}, "v1", "models/m/versions/1", "", 3)


class SlowInference:
    """Takes a while, so that a kill comes mid-batch."""

    def score(self, endpoint_id: str, events: Sequence[Event]) -> Sequence[Answer]:
        """Answer."""
        time.sleep(0.03)
        return [double(event) for event in events]


class Record:
    """One scorer that is to run."""

    def __init__(self, wanted: StreamScorer) -> None:
        self._wanted = wanted

    def running(self) -> Sequence[StreamScorer]:
        """It."""
        return [self._wanted]

    def deleted(self) -> Sequence[StreamScorer]:
        """None."""
        return []

    def forget(self, scorer: StreamScorer) -> None:
        """Not asked for."""
        raise AssertionError


if __name__ == "__main__":
    redis_url, prefix, uid, given = sys.argv[1:]
    streams = RedisScorerStreams(redis_url, prefix, CLAIM_AFTER)
    record = Record(scorer(uid, **json.loads(given)))
    supervisor = ScoringSupervisor(record, streams, SlowInference())
    supervisor.look()
    print("ready", flush=True)
    time.sleep(600)
