"""Stream scorers on a real Redis and the embedded Valkey: at least once in, exactly once out."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable
from datetime import timedelta

import orjson
import pytest

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
from serving_svc.domain.scorers import Progress, Start
from serving_svc.service.stream_scoring import TRIES
from serving_svc.stream import RedisScorerStreams
from tests.serving_svc.scoring_stream import Stream, run
from tests.serving_svc.stream_process import CLAIM_AFTER, double, scorer


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


def test_finish_counts_what_it_did(stream: Stream) -> None:
    stream.numbers(1)
    source = stream.streams.source(stream.scorer)
    (entry,) = source.read(5, 0.0)
    ending = Ending(entry.entry_id, "e1", Kind.RESULT, {b"id": b"e1", b"data": b"{}"})
    assert source.finish([ending])[Kind.RESULT] == 1
    assert set(source.finish([ending]).values()) == {0}
    assert source.answered(["e1", "e2"]) == {"e1"}
    source.close()


def test_redis_away(stream_prefix: str) -> None:
    streams = RedisScorerStreams("redis://127.0.0.1:1/0", stream_prefix, CLAIM_AFTER)
    made = scorer(uuid7_str())
    for work in (streams.open, streams.progress, streams.forget):
        with pytest.raises(DomainError, match="STREAM_UNAVAILABLE"):
            work(made)
