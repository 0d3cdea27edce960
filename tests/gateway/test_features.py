"""Reads of features: together in frames, by calls while there are no frames, and never too late."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from modelyard.dataplane.v1.dataplane_pb2 import ReadFeaturesResponse
from modelyard.features.v1 import features_pb2

from gateway.dataplane import features as reads
from gateway.dataplane.features import FeatureColumns, FeatureReader
from service_kit import frames
from service_kit.errors import DeadlineExceeded, DomainError, NotFound, Unavailable
from service_kit.settings import ServiceSettings
from tests.gateway.feature_fakes import FakePort, echo

SETTINGS = ServiceSettings(service="gateway", service_token="token")
SERVICE = "featureServices/s"


class Calls:
    """The stub: answers as the port does.

    Attributes:
        rows: Rows of each call.
        away: Whether nobody answers.
    """

    def __init__(self) -> None:
        self.rows: list[int] = []
        self.away = False
        self.silent = False

    async def __call__(self, request: Any, *, timeout: float) -> Any:  # noqa: ASYNC109 - as stubs
        column = request.entities[0]
        self.rows.append(len(column.strings.values) or len(column.int64s.values))
        if self.silent:
            await asyncio.sleep(timeout)
            raise _error(grpc.StatusCode.DEADLINE_EXCEEDED)
        if self.away:
            raise _error(grpc.StatusCode.UNAVAILABLE)
        await asyncio.sleep(0)
        return echo(request)


def _error(code: grpc.StatusCode) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata())


@asynccontextmanager
async def reader_of(port: FakePort, calls: Calls) -> AsyncIterator[FeatureReader]:
    reader = FeatureReader(calls)
    connect = functools.partial(frames.connect, settings=SETTINGS)
    reader.connect(await port.start(), connect, frames.hello(SETTINGS))
    try:
        await until(lambda: reader._link is not None and reader._link.up)
        yield reader
    finally:
        await reader.close()
        await port.stop()


async def until(condition: Callable[[], Any], seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        await asyncio.sleep(0.002)


async def read(reader: FeatureReader, *keys: Any, seconds: float = 2.0) -> list[Any]:
    found = await reader.read(SERVICE, {"k": list(keys)}, None, time.monotonic() + seconds)
    return found["x"].values


def test_everyone_gets_their_own_in_few_messages(runner: asyncio.Runner) -> None:
    port, calls = FakePort(delay=0.005), Calls()

    async def work() -> list[Any]:
        async with reader_of(port, calls) as reader:
            return await asyncio.gather(*(read(reader, str(at), str(-at)) for at in range(200)))

    assert runner.run(work()) == [[float(at), float(-at)] for at in range(200)]
    assert sum(port.rows) == 400
    assert len(port.rows) < 10
    assert calls.rows == []


def test_a_lone_read_waits_for_nothing_and_times_go_along(runner: asyncio.Runner) -> None:
    async def work() -> tuple[FeatureColumns, float]:
        async with reader_of(FakePort(), Calls()) as reader:
            began = time.monotonic()
            for at in range(50):
                await read(reader, str(at))
            took = (time.monotonic() - began) / 50
            end = time.monotonic() + 2
            one, other = await asyncio.gather(
                reader.read(SERVICE, {"k": ["1"]}, [5], end),
                reader.read(SERVICE, {"k": ["2", "3"]}, None, end),
            )
            assert other["x"].times == [0, 0]  # 0 stands for now
            return one, took

    found, took = runner.run(work())
    assert found["x"].times == [5]
    assert took < 0.01


def test_keys_of_other_kinds_and_other_services_go_apart(runner: asyncio.Runner) -> None:
    port = FakePort(delay=0.005)

    async def work() -> list[Any]:
        async with reader_of(port, Calls()) as reader:
            end = time.monotonic() + 2
            asks = [
                reader.read(f"featureServices/{name}", {"k": [key]}, None, end)
                for name in "ab"
                for key in (1, "2", 3, "4")
            ]
            return [found["x"].values for found in await asyncio.gather(*asks)]

    assert runner.run(work()) == [[1.0], [2.0], [3.0], [4.0]] * 2
    assert sorted(port.rows) == [2, 2, 2, 2]


def test_a_message_has_an_end(runner: asyncio.Runner) -> None:
    port = FakePort()

    async def work() -> None:
        async with reader_of(port, Calls()) as reader:
            ask = functools.partial(read, reader, *["1"] * 900)
            await asyncio.gather(*(ask() for _ in range(6)))

    runner.run(work())
    assert port.rows == [1_800] * 3


def test_the_stores_refusals_are_the_callers(runner: asyncio.Runner) -> None:
    port = FakePort()

    async def work() -> DomainError:
        async with reader_of(port, Calls()) as reader:
            port.error = NotFound("FEATURE_SERVICE_NOT_FOUND", "no", field="feature_service")
            with pytest.raises(NotFound) as error:
                await read(reader, "1")
            port.error = None
            assert await read(reader, "1") == [1.0]
            return error.value

    error = runner.run(work())
    assert (error.reason, error.field) == ("FEATURE_SERVICE_NOT_FOUND", "feature_service")


def test_what_a_lost_connection_leaves_is_asked_again_by_a_call(runner: asyncio.Runner) -> None:
    port, calls = FakePort(), Calls()

    async def work() -> None:
        async with reader_of(port, calls) as reader:
            port.break_next = True
            assert await asyncio.gather(*(read(reader, at) for at in range(20))) == [
                [float(at)] for at in range(20)
            ]
            assert calls.rows == [20]
            await until(lambda: reader._link is not None and reader._link.up)
            assert await read(reader, 5) == [5.0]
            assert calls.rows == [20]

    runner.run(work())
    assert port.rows == [20, 1]


def test_a_port_that_hangs_is_given_up(
    runner: asyncio.Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reads, "STALL_S", 0.2)
    port, calls = FakePort(), Calls()

    async def work() -> None:
        async with reader_of(port, calls) as reader:
            port.silent = True
            assert await read(reader, 1, seconds=3) == [1.0]
            assert calls.rows == [1]

    runner.run(work())


def test_nobody_waits_beyond_the_deadline(runner: asyncio.Runner) -> None:
    port, calls = FakePort(), Calls()

    async def work() -> float:
        async with reader_of(port, calls) as reader:
            port.silent = True
            began = time.monotonic()
            with pytest.raises(DeadlineExceeded):
                await read(reader, 1, seconds=0.1)
            return time.monotonic() - began

    assert 0.09 < runner.run(work()) < 0.5
    assert calls.rows == []


def test_with_neither_frames_nor_calls_it_is_a_typed_error_at_once(
    runner: asyncio.Runner,
) -> None:
    port, calls = FakePort(), Calls()

    async def work() -> float:
        async with reader_of(port, calls) as reader:
            await port.stop()
            calls.away = True
            began = time.monotonic()
            with pytest.raises(Unavailable) as error:
                await read(reader, 1)
            assert error.value.reason == "PEER_UNAVAILABLE"
            return time.monotonic() - began

    assert runner.run(work()) < 0.5


def test_what_waits_has_a_bound(runner: asyncio.Runner) -> None:
    async def work() -> None:
        calls = Calls()
        calls.silent = True
        reader = FeatureReader(calls)
        many = ["1"] * 1_000
        asks = [asyncio.create_task(read(reader, *many, seconds=0.3)) for _ in range(30)]
        await asyncio.sleep(0.1)
        assert len(calls.rows) == reads.MOST_CALLS
        ended = await asyncio.gather(*asks, return_exceptions=True)
        reasons = [each.reason for each in ended if isinstance(each, DomainError)]
        assert len(reasons) == 30
        assert reasons.count("OVERLOADED") == 30 - reads.MOST_ROWS_WAITING // 1_000
        assert set(reasons) == {"OVERLOADED", "DEADLINE_EXCEEDED"}
        await reader.close()

    runner.run(work())


def test_who_waits_no_longer_is_neither_sent_nor_told(runner: asyncio.Runner) -> None:
    port = FakePort(delay=0.05)
    told: list[Any] = []

    async def work() -> None:
        async with reader_of(port, Calls()) as reader:
            end = time.monotonic() + 2
            ask = functools.partial(reader.ask, SERVICE, as_of_us=None, deadline=end)
            first = ask(entities={"k": [1]}, done=lambda _: told.append(1))
            ask(entities={"k": [2]}, done=lambda _: told.append(2))
            assert told == []
            await asyncio.sleep(0.02)  # under way
            first.abandoned = True
            third = ask(entities={"k": [3]}, done=lambda _: told.append(3))
            third.abandoned = True
            ask(entities={"k": [4]}, deadline=time.monotonic(), done=told.append)
            await until(lambda: len(told) == 2)
            await read(reader, 5)

    runner.run(work())
    told.sort(key=str)
    assert told[0] == 2
    assert isinstance(told[1], DeadlineExceeded)
    assert port.rows == [2, 1]


def test_an_answer_that_makes_no_sense_is_an_error_and_one_that_is_none_a_lost_connection(
    runner: asyncio.Runner,
) -> None:
    port, calls = FakePort(), Calls()

    async def work() -> None:
        async with reader_of(port, calls) as reader:
            port.raw = ReadFeaturesResponse(id=1, numbers=b"x").SerializeToString()
            with pytest.raises(Unavailable, match="FEATURES_MALFORMED"):
                await read(reader, 1)
            port.raw = b"\xff"
            assert await read(reader, 1) == [1.0]

    runner.run(work())
    assert calls.rows == [1]


def test_a_call_that_makes_no_sense_is_an_error(runner: asyncio.Runner) -> None:
    async def call(request: Any, *, timeout: float) -> Any:  # noqa: ASYNC109 - as stubs
        return features_pb2.GetOnlineFeaturesResponse(features=[{"name": "x"}])

    async def work() -> None:
        reader = FeatureReader(call)
        with pytest.raises(Unavailable, match="FEATURES_MALFORMED"):
            await read(reader, 1)

    runner.run(work())
