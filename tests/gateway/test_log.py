"""The log: bounded, batched, never in the way."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from modelyard.dataplane.v1 import dataplane_pb2
from modelyard.events.v1 import events_pb2

from gateway.dataplane.ask import Prepared
from gateway.dataplane.inputs import InputField, encode_rows, make_plan
from gateway.dataplane.log import FLUSH_ROWS, EventLog
from gateway.dataplane.log_encode import prediction_batch
from gateway.dataplane.log_rows import NOTHING_MORE, ExposureRow, More, PredictionRows
from gateway.dataplane.routing import Route, Variant, compile_state
from service_kit.errors import Unavailable
from service_kit.ids import uuid7_strs
from service_kit.streams import Event, EventStreams
from tests.arrow import decoded
from tests.gateway import tables
from tests.gateway.test_inputs import PLAN

VERSION = Variant("v1", "models/m/versions/1", 0, PLAN)


def route(generation: int = 1) -> Route:
    made = tables.route("e", tables.variant("v1", 10_000), generation=generation)
    return compile_state(dataplane_pb2.DataPlaneState(endpoints=[made])).routes["e"]


ROUTE = route()


def add(log: EventLog, rows: int, table: Route = ROUTE, **changes: Any) -> None:
    ids = uuid7_strs(rows)
    given: dict[str, Any] = {
        "units": ids,
        "event_times_us": [1] * rows,
        "scores": [0.5] * rows,
        "latencies_us": [2**40] * rows,
        "prepared": Prepared({"carrier": ["UA"] * rows}, b""),
    }
    log.predictions(table, VERSION, ids, **given | changes)


class Sink:
    def __init__(self) -> None:
        self.away = False
        self.events: list[Event] = []

    def append(self, stream: str, events: Sequence[Event]) -> None:
        if self.away:
            raise Unavailable("STREAM_UNAVAILABLE", "away")
        self.events.extend(events)

    @property
    def batches(self) -> list[dict[str, list[Any]]]:
        events = [each.unpack(events_pb2.PredictionBatch) for each in self.events]
        return [decoded(event.rows) for event in events]


def test_rows_of_a_version_share_a_batch(runner: asyncio.Runner) -> None:
    sink = Sink()

    async def work() -> None:
        log = EventLog(sink.append)
        add(log, 2)
        add(log, 3, more=More(fallback="champion"))
        add(log, 1, more=More(shadow=True))
        add(log, 1, route(2))
        await log.stop()

    runner.run(work())
    assert [len(batch["score"]) for batch in sink.batches] == [5, 1, 1]
    first = sink.batches[0]
    assert first["fallback"] == ["", "", "champion", "champion", "champion"]
    assert first["latency_us"][0] == 2**32 - 1
    assert first["input.carrier"] == ["UA"] * 5
    assert first["input.wind"] == [None] * 5
    assert sink.events[0].key == "endpoints/e"
    assert sink.events[0].occurred.tzinfo is UTC


NUMBERS = st.none() | st.floats(width=32, allow_nan=False, allow_infinity=False)
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "mean_delay": NUMBERS,
            "wind": NUMBERS,
            "distance": NUMBERS,
            "hour": NUMBERS,
            "carrier": st.sampled_from(["UA", "AA", None]),
        }
    ),
    min_size=1,
    max_size=5,
)


@given(ROWS)
def test_a_matrix_is_logged_as_what_went_in(rows: list[dict[str, Any]]) -> None:
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    matrix = encode_rows(PLAN, columns, len(rows))
    assert len(matrix) == 4 * 5 * len(rows)
    ids = uuid7_strs(len(rows))
    kept = PredictionRows(ROUTE, VERSION, shadow=False)
    for at in range(len(rows)):  # as requests of one row each
        row = matrix[20 * at : 20 * at + 20]
        kept.add(ids[at : at + 1], ["u"], [at], [0.1], [5], Prepared({}, row), NOTHING_MORE)
    logged = decoded(prediction_batch(kept).rows)
    assert (logged["prediction_id"], logged["unit_id"]) == (ids, ["u"] * len(rows))
    assert logged["event_time"] == list(range(len(rows)))
    for name, values in columns.items():
        found = logged[f"input.{name}"]
        assert [None if v is None or v != v else v for v in found] == values


def test_numbers_are_logged_as_the_caller_gave_them() -> None:
    plain = replace(
        VERSION, plan=make_plan([InputField(n, None, False, True) for n in "ab"], ["y"], [], "")
    )
    kept = PredictionRows(ROUTE, plain, shadow=True)
    for value in (0.1, 7):
        prepared = Prepared({}, b"", values=[value, 1e300])
        kept.add(uuid7_strs(1), [], [1], [0.5], [5], prepared, NOTHING_MORE)
    batch = prediction_batch(kept)
    logged = decoded(batch.rows)
    assert batch.role == batch.ROLE_SHADOW
    assert (logged["input.a"], logged["input.b"]) == ([0.1, 7.0], [1e300] * 2)


def test_what_is_too_much_is_dropped_and_counted(runner: asyncio.Runner) -> None:
    sink = Sink()
    sink.away = True

    async def work() -> EventLog:
        log = EventLog(sink.append, most_rows=10)
        log.start()
        for _ in range(5):
            add(log, 3)
            await asyncio.sleep(0.06)
        sink.away = False
        await asyncio.sleep(0.7)
        add(log, 3)
        await log.stop()
        return log

    log = runner.run(work())
    assert log.dropped == 6
    assert sum(len(batch["score"]) for batch in sink.batches) == 12


def test_many_rows_do_not_wait_for_the_clock(runner: asyncio.Runner) -> None:
    sink = Sink()

    async def work() -> float:
        log = EventLog(sink.append)
        log.start()
        await asyncio.sleep(0)
        began = asyncio.get_running_loop().time()
        add(log, FLUSH_ROWS)
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
        add(log, 2)
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
        add(log, 2)
        add(log, 1, route(2))
        while not begun.is_set():  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        add(log, 1, route(3))
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
        add(log, 2)
        while not log.dropped:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        add(log, 3)
        while not sink.events:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await log.stop()
        return log

    log = runner.run(asyncio.wait_for(work(), 10))
    assert log.dropped == 2
    assert [len(batch["score"]) for batch in sink.batches] == [3]
