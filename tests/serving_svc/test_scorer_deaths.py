"""Stream scorers that die at any point: each event still has exactly one result."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving_svc.service.stream_scoring import ScoringLoop
from tests.serving_svc.scoring_stream import Stream, run, until


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
