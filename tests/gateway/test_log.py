"""The log: bounded, batched, never in the way."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from datetime import UTC
from typing import Any

from modelyard.events.v1 import events_pb2

from gateway.dataplane.log import EventLog, ExposureRow, PredictionChunk
from service_kit.errors import Unavailable
from service_kit.streams import Event, EventStreams
from tests.gateway.test_inputs import PLAN


def chunk(rows: int, **changes: Any) -> PredictionChunk:
    given: dict[str, Any] = {
        "endpoint": "endpoints/e",
        "variant": "v1",
        "model_version": "models/m/versions/1",
        "generation": 1,
        "shadow": False,
        "plan": PLAN,
        "ids": [f"p{at}" for at in range(rows)],
        "units": ["u"] * rows,
        "event_times_us": [1] * rows,
        "scores": [0.5] * rows,
        "latency_us": 2**40,
        "columns": {"carrier": ["UA"] * rows},
    }
    return PredictionChunk(**given | changes)


class Sink:
    def __init__(self) -> None:
        self.away = False
        self.events: list[Event] = []

    def append(self, stream: str, events: Sequence[Event]) -> None:
        if self.away:
            raise Unavailable("STREAM_UNAVAILABLE", "away")
        self.events.extend(events)

    @property
    def batches(self) -> list[Any]:
        return [each.unpack(events_pb2.PredictionBatch) for each in self.events]


def test_rows_of_a_version_share_a_batch(runner: asyncio.Runner) -> None:
    sink = Sink()

    async def work() -> None:
        log = EventLog(sink.append)
        log.predictions(chunk(2))
        log.predictions(chunk(3, fallback="champion"))
        log.predictions(chunk(1, shadow=True))
        log.predictions(chunk(1, generation=2))
        await log.stop()

    runner.run(work())
    assert [len(batch.scores) for batch in sink.batches] == [5, 1, 1]
    first = sink.batches[0]
    assert list(first.fallbacks) == ["", "", "champion", "champion", "champion"]
    assert first.latencies_us[0] == 2**32 - 1
    columns = {column.name: column for column in first.inputs}
    assert list(columns["carrier"].strings.values) == ["UA"] * 5
    assert all(
        len(column.doubles.values) == 5 for name, column in columns.items() if name == "wind"
    )
    assert sink.events[0].key == "endpoints/e"
    assert sink.events[0].occurred.tzinfo is UTC


def test_what_is_too_much_is_dropped_and_counted(runner: asyncio.Runner) -> None:
    sink = Sink()
    sink.away = True

    async def work() -> EventLog:
        log = EventLog(sink.append, most_rows=10)
        log.start()
        for _ in range(5):
            log.predictions(chunk(3))
            await asyncio.sleep(0.06)
        sink.away = False
        await asyncio.sleep(0.7)
        log.predictions(chunk(3))
        await log.stop()
        return log

    log = runner.run(work())
    assert log.dropped == 6
    assert sum(len(batch.scores) for batch in sink.batches) == 12


def test_many_rows_do_not_wait_for_the_clock(runner: asyncio.Runner) -> None:
    sink = Sink()

    async def work() -> float:
        log = EventLog(sink.append)
        log.start()
        await asyncio.sleep(0)
        began = asyncio.get_running_loop().time()
        log.predictions(chunk(600))
        while not sink.events:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        took = asyncio.get_running_loop().time() - began
        await log.stop()
        return took

    assert runner.run(work()) < 0.045


def test_both_streams_reach_a_real_redis(
    runner: asyncio.Runner, redis_url: str, stream_prefix: str
) -> None:
    streams = EventStreams(redis_url, stream_prefix)
    exposure = ExposureRow(
        "endpoints/e", "experiments/x", ("a", "b"), "u", "p", 1, 1, [0.1, 0.2], [5, 6], [0, 0]
    )

    async def work() -> None:
        log = EventLog(streams.append)
        log.start()
        log.predictions(chunk(2))
        log.exposures([exposure, exposure])
        await log.stop()

    runner.run(work())
    assert (streams.length("predictions"), streams.length("exposures")) == (1, 1)
    streams.close()


def test_stopping_while_a_flush_is_under_way_sends_everything_once(
    runner: asyncio.Runner,
) -> None:
    begun, go_on, sent = threading.Event(), threading.Event(), []

    def slow(stream: str, events: Sequence[Event]) -> None:
        begun.set()
        assert go_on.wait(5)
        sent.extend(events)

    async def work() -> EventLog:
        log = EventLog(slow)
        log.start()
        log.predictions(chunk(2))
        log.predictions(chunk(1, generation=2))
        while not begun.is_set():  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        log.predictions(chunk(1, generation=3))
        stopping = asyncio.create_task(log.stop())
        await asyncio.sleep(0.05)
        go_on.set()
        await stopping
        return log

    log = runner.run(work())
    assert [event.unpack(events_pb2.PredictionBatch).table_generation for event in sent] == [
        1,
        2,
        3,
    ]
    assert (log.dropped, log._rows) == (0, 0)


def test_an_append_that_breaks_is_counted_and_the_log_goes_on(runner: asyncio.Runner) -> None:
    sink = Sink()
    broken = [True]

    def append(stream: str, events: Sequence[Event]) -> None:
        if broken:
            broken.clear()
            raise RuntimeError("unheard of")
        sink.append(stream, events)

    async def work() -> EventLog:
        log = EventLog(append)
        log.start()
        log.predictions(chunk(2))
        while not log.dropped:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        log.predictions(chunk(3))
        while not sink.events:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await log.stop()
        return log

    log = runner.run(asyncio.wait_for(work(), 10))
    assert log.dropped == 2
    assert [len(batch.scores) for batch in sink.batches] == [3]
