"""Stream scorers on a real Redis and the embedded Valkey: at least once in, exactly once out."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service_kit.errors import DomainError, NotFound, Unavailable
from service_kit.ids import uuid7_str
from serving_svc.domain.scorer_events import (
    Answer,
    Ending,
    Event,
    Fate,
    Kind,
    Problem,
    prediction_id,
)
from serving_svc.domain.scorers import Progress, Start, StreamScorer
from serving_svc.service import scoring_supervisor, stream_scoring
from serving_svc.service.scoring_supervisor import ScoringSupervisor
from serving_svc.service.stream_scoring import TRIES, ScoringLoop
from serving_svc.stream import RedisScorerStreams, RedisSource
from tests.serving_svc.stream_process import CLAIM_AFTER, Record, double, scorer


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


@pytest.fixture(params=["redis", "valkey"])
def stream(
    request: pytest.FixtureRequest, stream_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Stream]:
    monkeypatch.setattr(stream_scoring, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(stream_scoring, "LONGEST_PAUSE_S", 0.05)
    made = Stream(request.getfixturevalue(f"{request.param}_url"), stream_prefix)
    yield made
    made.close()


def run(loop: ScoringLoop, until: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < deadline, "it did not happen in time"
        loop.poll_once(0.01)
        time.sleep(loop.wait_s())


def test_each_event_has_one_result_in_order(stream: Stream) -> None:
    stream.use(max_rows=8)
    stream.numbers(*range(20))
    loop = stream.loop()
    assert [loop.poll_once(0.01) for _ in range(4)] == [8, 8, 4, 0]
    assert stream.results() == [(f"e{n}", 2 * n) for n in range(20)]
    assert stream.dead() == []
    assert stream.progress() == Progress(20, 0, 0, 0, 0, "", None)
    (_, first), *_ = stream.client.xrange(stream.keys.results)
    (entry, _), *_ = stream.client.xrange(stream.keys.source)
    assert orjson.loads(first[b"data"]) == {
        "prediction_id": prediction_id(stream.scorer.uid, "e0", entry.decode()),
        "outputs": {"y": 0},
        "variant": "v1",
        "model_version": "models/m/versions/1",
        "fallback": "",
        "endpoint": "endpoints/late",
        "table_generation": 3,
    }


def test_a_crash_between_scoring_and_acknowledging_costs_nothing(stream: Stream) -> None:
    stream.numbers(1, 2, 3)

    def crash() -> None:
        raise KeyboardInterrupt

    stream.inference.meanwhile = crash
    with pytest.raises(KeyboardInterrupt):
        stream.loop().poll_once(0.01)
    assert stream.results() == []
    assert stream.progress().pending == 3
    stream.inference.meanwhile = lambda: None
    run(stream.loop(), lambda: len(stream.results()) == 3)
    assert stream.results() == [("e1", 2), ("e2", 4), ("e3", 6)]
    assert stream.inference.asked == ["e1", "e2", "e3"] * 2


def test_who_was_thought_dead_adds_nothing(stream: Stream) -> None:
    slow, heir = stream.loop(), stream.loop()
    stream.numbers(1, 2)

    def taken_over() -> None:
        stream.inference.meanwhile = lambda: None
        time.sleep(2 * CLAIM_AFTER.total_seconds())
        run(heir, lambda: len(stream.results()) == 2)

    stream.inference.meanwhile = taken_over
    slow.poll_once(0.01)
    assert stream.inference.asked == ["e1", "e2"] * 2
    assert stream.results() == [("e1", 2), ("e2", 4)]
    assert stream.progress() == Progress(2, 0, 0, 0, 0, "", None)


def test_an_event_that_is_appended_twice_has_one_result(stream: Stream) -> None:
    stream.numbers(1, 1, 2)
    loop = stream.loop()
    run(loop, lambda: stream.progress().pending == 0 and stream.progress().lag == 0)
    stream.numbers(2, 3)
    run(loop, lambda: len(stream.results()) == 3)
    assert stream.results() == [("e1", 2), ("e2", 4), ("e3", 6)]
    assert stream.inference.asked == ["e1", "e2", "e3"]
    assert stream.progress() == Progress(3, 0, 2, 0, 0, "", None)


def test_the_memory_of_ids_is_bounded(stream: Stream) -> None:
    stream.use(dedupe_limit=10, result_limit=10, max_rows=300)
    stream.numbers(*range(300))
    run(stream.loop(), lambda: stream.progress().scored == 300)
    assert stream.client.zcard(stream.keys.answered) == 10
    assert stream.client.xlen(stream.keys.results) < 300
    assert 0 < stream.client.pttl(stream.keys.answered) <= 86_400_000
    stream.use(dedupe_window=timedelta(milliseconds=100), start=Start.LATEST)
    stream.streams.open(stream.scorer)
    loop, numbers = stream.loop(), itertools.count()
    stream.numbers(next(numbers))
    loop.poll_once(0.01)

    def forgotten() -> bool:
        stream.numbers(next(numbers))  # others are remembered all the while
        return stream.client.zscore(stream.keys.answered, "e0") is None

    run(loop, forgotten)
    assert stream.client.exists(stream.keys.answered)
    stream.numbers(0)
    run(loop, lambda: [event for event, _ in stream.results()[-5:]].count("e0") == 1)


def test_poison_goes_to_the_dead_letters_and_stops_nobody(stream: Stream) -> None:
    stream.numbers(1)
    poison = [
        stream.append("bad", {"x": 1}, extra="kept"),
        stream.append("worse", [1]),
        stream.append("", {"n": 1}),
    ]
    stream.numbers(2)
    loop = stream.loop()
    loop.poll_once(0.01)
    assert stream.results() == [("e1", 2), ("e2", 4)]
    letters = {each[b"entry"].decode(): each for each in stream.dead()}
    told = [(letters[each][b"reason"], letters[each][b"field"]) for each in poison]
    assert told == [(b"FIELD_MISSING", b"n"), (b"WRONG_TYPE", b"data"), (b"INVALID_ID", b"id")]
    assert letters[poison[0]] | {b"extra": b"kept", b"data": b'{"x":1}'} == letters[poison[0]]
    assert stream.progress() == Progress(2, 3, 0, 0, 0, "", None)
    # Put right, it has its result.
    stream.append("bad", {"n": 9})
    loop.poll_once(0.01)
    assert stream.results()[-1] == ("bad", 18)


def failing(*ids: str, reason: str, fate: Fate) -> Callable[[Event], Answer]:
    problem = Problem(fate, reason)
    return lambda event: problem if event.event_id in ids else double(event)


@pytest.mark.parametrize(
    ("fate", "reason"),
    [(Fate.FAILED, "MODEL_FAILED"), (Fate.UNAVAILABLE, "DEADLINE_EXCEEDED")],
)
def test_what_the_model_fails_on_is_tried_and_set_aside(
    stream: Stream, fate: Fate, reason: str
) -> None:
    stream.use(max_rows=4)
    stream.inference.answer = failing("e2", reason=reason, fate=fate)
    stream.numbers(1, 2, 3)
    loop, number = stream.loop(), 3

    def go_on() -> bool:
        nonlocal number
        number += 1
        stream.numbers(number)  # others come all the while, and are answered
        return bool(stream.dead())

    run(loop, go_on)
    assert stream.inference.asked.count("e2") == TRIES
    (letter,) = stream.dead()
    assert (letter[b"id"], letter[b"reason"]) == (b"e2", reason.encode())
    run(loop, lambda: stream.progress().lag == 0)
    others = [n for n in range(1, number + 1) if n != 2]
    assert Counter(stream.results()) == Counter((f"e{n}", 2 * n) for n in others)
    assert stream.progress().last_error == reason


def test_a_failure_that_passes_is_none(stream: Stream) -> None:
    stream.inference.answer = failing("e1", reason="MODEL_FAILED", fate=Fate.FAILED)
    stream.numbers(1, 2)
    loop = stream.loop()
    loop.poll_once(0.01)
    assert stream.results() == [("e2", 4)]
    stream.inference.answer = double
    run(loop, lambda: len(stream.results()) == 2)
    assert stream.dead() == []


@pytest.mark.parametrize("whole", [True, False])
def test_while_nobody_can_answer_events_wait(stream: Stream, whole: bool) -> None:
    stream.use(max_rows=4)
    nobody = failing(*[f"e{n}" for n in range(9)], reason="NO_REPLICA", fate=Fate.UNAVAILABLE)
    if whole:
        stream.inference.away = True
    else:
        stream.inference.answer = nobody
    stream.numbers(*range(9))
    loop = stream.loop()
    for _ in range(3 * TRIES):
        loop.poll_once(0.01)
        time.sleep(loop.wait_s())
    # One micro-batch is held, the others are not even read.
    reason = "OVERLOADED" if whole else "NO_REPLICA"
    progress = stream.progress()
    assert (progress.pending, progress.lag, progress.last_error) == (4, 5, reason)
    assert progress.last_error_time is not None
    assert (stream.results(), stream.dead()) == ([], [])
    stream.inference.away, stream.inference.answer = False, double
    run(loop, lambda: len(stream.results()) == 9)
    assert Counter(stream.results()) == Counter((f"e{n}", 2 * n) for n in range(9))


def test_those_of_one_variant_wait_while_others_are_answered(stream: Stream) -> None:
    stream.use(max_rows=4)
    stream.inference.answer = failing("e1", reason="NO_REPLICA", fate=Fate.UNAVAILABLE)
    stream.numbers(1)
    loop = stream.loop()
    for number in range(2, 2 + 3 * TRIES):
        stream.numbers(number)
        loop.poll_once(0.01)
        time.sleep(0.01)
    assert stream.dead() == []
    run(loop, lambda: len(stream.results()) == 3 * TRIES)
    stream.inference.answer = double
    run(loop, lambda: ("e1", 2) in stream.results())


def test_where_to_begin(stream: Stream) -> None:
    stream.numbers(1)
    stream.use(start=Start.LATEST)
    stream.streams.open(stream.scorer)
    stream.numbers(2)
    loop = stream.loop()
    loop.poll_once(0.01)
    assert stream.results() == [("e2", 4)]
    # Lost with its stream, the group begins with what came since.
    stream.client.delete(stream.keys.source)
    stream.numbers(3)
    with pytest.raises(NotFound, match="GROUP_NOT_FOUND"):
        loop.poll_once(0.01)
    stream.loop().poll_once(0.01)
    assert stream.results() == [("e2", 4), ("e3", 6)]


def test_what_its_producer_has_removed_is_told(stream: Stream) -> None:
    stream.numbers(1, 2)
    stream.inference.away = True
    loop = stream.loop()
    loop.poll_once(0.01)
    (first, _), _ = stream.client.xrange(stream.keys.source)
    stream.client.xdel(stream.keys.source, first)
    stream.inference.away = False
    run(loop, lambda: stream.results() == [("e2", 4)])
    (letter,) = stream.dead()
    assert (letter[b"entry"], letter[b"reason"]) == (first, b"EVENT_DELETED")


def test_a_result_that_can_t_be_appended_leaves_its_event(stream: Stream) -> None:
    # It is this consumer that goes on with it: nobody takes over for an hour.
    stream.streams = RedisScorerStreams(stream.url, stream.prefix, timedelta(hours=1))
    stream.numbers(1, 2)
    stream.client.set(stream.keys.results, "no stream")
    loop = stream.loop()
    with pytest.raises(Unavailable, match="NOT_A_STREAM"):
        loop.poll_once(0.01)
    stream.client.delete(stream.keys.results)
    run(loop, lambda: len(stream.results()) == 2)
    assert stream.progress().pending == 0


def test_what_is_forgotten_comes_back_for_nobody(stream: Stream) -> None:
    stream.numbers(1, 2)
    loop = stream.loop()
    loop.poll_once(0.01)
    stream.streams.forget(stream.scorer)
    stream.streams.forget(stream.scorer)
    stream.numbers(3)
    for late in (loop, stream.loop()):
        with pytest.raises(NotFound):
            late.poll_once(0.01)
    assert stream.client.xinfo_groups(stream.keys.source) == []
    assert len(stream.results()) == 2
    left = {key.decode() for key in stream.client.scan_iter(match=f"{stream.prefix}:scorers:*")}
    assert left == {stream.keys.progress}
    assert stream.client.ttl(stream.keys.progress) > 0


def test_consumers_that_leave_are_dropped_unless_something_is_theirs(stream: Stream) -> None:
    stream.numbers(1)
    gone, held = stream.loop(), stream.loop()
    gone.poll_once(0.01)
    stream.numbers(2)
    stream.inference.away = True
    held.poll_once(0.01)
    for source in stream.sources:
        source.close()
    (left,) = stream.client.xinfo_consumers(stream.keys.source, stream.scorer.group)
    assert left["pending"] == 1


def test_a_supervisor_starts_and_stops_what_the_record_wants(
    stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring_supervisor, "LOOK_S", 0.02)
    forgotten: list[StreamScorer] = []
    record: Any = Record(stream.scorer)
    supervisor = ScoringSupervisor(record, stream.streams, stream.inference)
    supervisor.start()
    stream.numbers(1)
    until(lambda: len(stream.results()) == 1)
    record.running = list
    until(lambda: not supervisor._workers)
    stream.numbers(2)
    record.running = lambda: [stream.scorer]
    until(lambda: len(stream.results()) == 2)
    record.running, record.deleted = list, lambda: [stream.scorer]
    record.forget = forgotten.append
    until(lambda: bool(forgotten) and not supervisor._workers)
    assert stream.client.xinfo_groups(stream.keys.source) == []
    supervisor.stop()


def test_a_supervisor_that_is_told_looks_at_once(
    stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring_supervisor, "LOOK_S", 60.0)
    record: Any = Record(stream.scorer)
    record.running = list
    supervisor = ScoringSupervisor(record, stream.streams, stream.inference)
    supervisor.start()
    record.running = lambda: [stream.scorer]
    supervisor.notify()
    stream.numbers(1)
    until(lambda: len(stream.results()) == 1)
    record.running = list
    supervisor.notify()
    # Until its thread has ended it is looked for again, without being told.
    until(lambda: not supervisor._workers)
    supervisor.stop()


def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 4)), max_size=30))
def test_whatever_dies_when_each_event_has_one_result(
    stream: Stream, deaths: list[tuple[int, int]]
) -> None:
    """Two consumers that die at any point of a micro-batch, and are followed by others."""
    stream.client.delete(stream.keys.source, stream.keys.results)
    stream.use(max_rows=3)
    stream.numbers(*range(8), *range(3))
    loops = [stream.loop(), stream.loop()]
    for which, point in deaths:
        source = stream.sources[-2 + which]
        if point == 0:
            loops[which] = stream.loop()  # at rest
        elif point == 1:
            source.read(3, 0.0)
            loops[which] = stream.loop()  # after reading
        elif point == 2:
            stream.inference.meanwhile = _die
            _or_death(loops[which])
            stream.inference.meanwhile = lambda: None
            loops[which] = stream.loop()  # after scoring
        else:
            loops[which].poll_once(0.0)
    last = stream.loop()
    run(last, lambda: (found := stream.progress()).pending == 0 and found.lag == 0)
    assert Counter(stream.results()) == Counter((f"e{n}", 2 * n) for n in range(8))


def _die() -> None:
    raise KeyboardInterrupt


def _or_death(loop: ScoringLoop) -> None:
    with suppress(KeyboardInterrupt):
        loop.poll_once(0.0)


def test_finish_counts_what_it_did(stream: Stream) -> None:
    stream.numbers(1)
    source = stream.streams.source(stream.scorer)
    (entry,) = source.read(5, 0.0)
    ending = Ending(entry.entry_id, "e1", Kind.RESULT, {b"id": b"e1", b"data": b"{}"})
    assert source.finish([ending])[Kind.RESULT] == 1
    assert set(source.finish([ending]).values()) == {0}
    assert source.answered(["e1", "e2"]) == {"e1"}
    source.close()


@pytest.mark.timeout(120)
def test_kill_9_of_consumers_mid_batch(stream: Stream) -> None:
    """Each event has exactly one result, and each poison one dead letter, whoever is killed."""
    stream.use(max_rows=16)
    kills, part, draw, left_behind = 6, 400, random.Random(7), 0
    events = range(kills * part)
    poison = set(events[::100])
    consumers = [consumer(stream) for _ in range(2)]
    try:
        for kill in range(kills):
            for number in events[kill * part : (kill + 1) * part]:
                stream.append(f"e{number}", {} if number in poison else {"n": number})
            time.sleep(0.1 * draw.random())
            victim = consumers.pop(draw.randrange(2))
            victim.send_signal(signal.SIGKILL)
            victim.wait()
            left_behind += pending_of(stream, victim.pid)
            consumers.append(consumer(stream))
        until(lambda: stream.progress().lag == stream.progress().pending == 0, 30)
    finally:
        for each in consumers:
            each.kill()
            each.wait()
    assert left_behind > 0
    scored = [n for n in events if n not in poison]
    assert Counter(stream.results()) == Counter((f"e{n}", 2 * n) for n in scored)
    assert Counter(each[b"id"] for each in stream.dead()) == Counter(b"e%d" % n for n in poison)
    progress = stream.progress()
    assert (progress.scored, progress.refused) == (len(scored), len(poison))


def pending_of(stream: Stream, pid: int) -> int:
    """Events that a process has read and not finished."""
    found = stream.client.xinfo_consumers(stream.keys.source, stream.scorer.group)
    return sum(each["pending"] for each in found if f"-{pid}-".encode() in each["name"])


def consumer(stream: Stream) -> subprocess.Popen[str]:
    """A process with the scorer at work."""
    command = [sys.executable, "-m", "tests.serving_svc.stream_process"]
    arguments = [stream.url, stream.prefix, stream.scorer.uid]
    started = subprocess.Popen(
        [*command, *arguments, json.dumps({"max_rows": stream.scorer.max_rows})],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
    )
    assert started.stdout is not None
    assert started.stdout.readline() == "ready\n"
    return started


def test_redis_away(stream_prefix: str) -> None:
    streams = RedisScorerStreams("redis://127.0.0.1:1/0", stream_prefix, CLAIM_AFTER)
    made = scorer(uuid7_str())
    for work in (streams.open, streams.progress, streams.forget):
        with pytest.raises(DomainError, match="STREAM_UNAVAILABLE"):
            work(made)
