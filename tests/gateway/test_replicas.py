"""Streams to replicas: batches that form by themselves, lost replicas, stalls, deadlines."""

from __future__ import annotations

import asyncio
import functools
import time
from array import array
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from gateway.dataplane import replicas as streams
from gateway.dataplane.pool import ReplicaPool
from gateway.dataplane.replicas import ReplicaError
from gateway.dataplane.routing import ReplicaAddress
from service_kit import frames
from service_kit.settings import ServiceSettings
from tests.gateway.fakes import FakeReplica, Rows

SETTINGS = ServiceSettings(service="gateway", service_token="token")
Run = Callable[[Awaitable[Any]], Any]


def double(rows: Rows) -> Rows:
    return [[2 * row[0]] for row in rows]


def row(value: float) -> bytes:
    return array("f", [value]).tobytes()


def value(data: bytes) -> float:
    return array("f", data)[0]


@asynccontextmanager
async def pool_of(*fakes: FakeReplica) -> AsyncIterator[ReplicaPool]:
    connect = functools.partial(frames.connect, settings=SETTINGS)
    pool = ReplicaPool(connect, frames.hello(SETTINGS))
    addresses = [ReplicaAddress(f"r{at}", "v", await fake.start()) for at, fake in enumerate(fakes)]
    pool.add(addresses)
    for address in addresses:
        await pool.connected([address], 2)
    try:
        yield pool
    finally:
        await pool.close()
        for fake in fakes:
            await fake.stop()


async def infer(pool: ReplicaPool, number: float, seconds: float = 2.0) -> float:
    return value((await pool.infer("v", row(number), 1, time.monotonic() + seconds)).outputs)


def test_everyone_gets_their_own_answer_in_few_messages(runner: asyncio.Runner) -> None:
    fake = FakeReplica(double, delay=0.01)

    async def work() -> list[float]:
        async with pool_of(fake) as pool:
            return await asyncio.gather(*(infer(pool, at) for at in range(300)))

    assert runner.run(work()) == [2.0 * at for at in range(300)]
    assert len(fake.batches) < 10


@pytest.mark.parametrize(("count", "first"), [(5, 5), (40, streams.MOST_GATHERED)])
def test_what_the_next_turns_bring_goes_along_up_to_a_bound(
    runner: asyncio.Runner, count: int, first: int
) -> None:
    fake = FakeReplica(double, delay=0.05)

    async def later(pool: ReplicaPool, turns: int) -> float:
        for _ in range(turns):
            await asyncio.sleep(0)
        return await infer(pool, turns)

    async def work() -> list[float]:
        async with pool_of(fake) as pool:
            return await asyncio.gather(*(later(pool, turns) for turns in range(count)))

    assert runner.run(work()) == [2.0 * turns for turns in range(count)]
    assert fake.batches[0] == first


def test_a_lone_request_waits_for_nothing(runner: asyncio.Runner) -> None:
    async def work() -> float:
        async with pool_of(FakeReplica(double)) as pool:
            await infer(pool, 1)
            began = time.monotonic()
            for at in range(50):
                await infer(pool, at)
            return (time.monotonic() - began) / 50

    assert runner.run(work()) < 0.01


def test_a_broken_stream_moves_its_requests_to_another_replica(runner: asyncio.Runner) -> None:
    one, two = FakeReplica(double, delay=0.02), FakeReplica(double, delay=0.02)

    async def work() -> list[float]:
        async with pool_of(one, two) as pool:
            one.break_next = True
            return await asyncio.gather(*(infer(pool, at) for at in range(40)))

    assert runner.run(work()) == [2.0 * at for at in range(40)]
    assert not one.break_next


def test_a_request_is_moved_once_only(runner: asyncio.Runner) -> None:
    one, two, three = (FakeReplica(double) for _ in range(3))

    async def work() -> None:
        async with pool_of(one, two, three) as pool:
            one.break_next = two.break_next = three.break_next = True
            await infer(pool, 1)

    with pytest.raises(ReplicaError, match="REPLICA_LOST"):
        runner.run(work())
    assert sum(fake.break_next for fake in (one, two, three)) == 1


def test_a_replica_that_comes_back_is_used_again(runner: asyncio.Runner) -> None:
    one = FakeReplica(double)

    async def work() -> float:
        async with pool_of(one) as pool:
            await infer(pool, 1)
            await one.stop()
            with pytest.raises(ReplicaError):
                await infer(pool, 1)
            await one.start(int(one.address.rpartition(":")[2]))
            while not pool.serves("v"):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            return await infer(pool, 3)

    assert runner.run(asyncio.wait_for(work(), 10)) == 6


def test_a_stalled_stream_is_given_up(
    runner: asyncio.Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "STALL_S", 0.2)
    one = FakeReplica(double, delay=3)

    async def work() -> None:
        async with pool_of(one) as pool:
            with pytest.raises(ReplicaError, match=r"NO_REPLICA|REPLICA_LOST"):
                await infer(pool, 1)
            one.delay = 0
            while not pool.serves("v"):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            assert await infer(pool, 1) == 2

    runner.run(asyncio.wait_for(work(), 5))


def test_a_deadline_frees_the_caller_and_not_the_stream(runner: asyncio.Runner) -> None:
    one = FakeReplica(double, delay=0.2)

    async def work() -> float:
        async with pool_of(one) as pool:
            with pytest.raises(ReplicaError, match="DEADLINE_EXCEEDED"):
                await infer(pool, 1, seconds=0.05)
            return await infer(pool, 2)

    assert runner.run(work()) == 4


def test_a_replica_that_is_let_go_still_answers_what_it_has(runner: asyncio.Runner) -> None:
    one = FakeReplica(double, delay=0.1)

    async def work() -> float:
        async with pool_of(one) as pool:
            under_way = asyncio.create_task(infer(pool, 5))
            await asyncio.sleep(0.02)
            pool.keep_only([])
            with pytest.raises(ReplicaError, match="NO_REPLICA"):
                await infer(pool, 1)
            return await under_way

    assert runner.run(work()) == 10


def test_the_reason_of_the_replica_is_told(runner: asyncio.Runner) -> None:
    one = FakeReplica(double)
    one.error = "MODEL_FAILED"

    async def work() -> None:
        async with pool_of(one) as pool:
            await infer(pool, 1)

    with pytest.raises(ReplicaError, match="MODEL_FAILED"):
        runner.run(work())
