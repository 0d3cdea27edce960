"""One timer for all that is under way."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

import pytest

from gateway.dataplane.deadlines import SWEEP_S, Deadlines


@dataclass(eq=False)
class Thing:
    expires: float


def test_what_is_over_is_told_and_what_is_discarded_is_not(runner: asyncio.Runner) -> None:
    over: list[Thing] = []

    async def work() -> None:
        now = time.monotonic()
        late, gone, later = Thing(now), Thing(now), Thing(now + 60)
        deadlines: Deadlines[Thing] = Deadlines(
            lambda each: (over.append(each), deadlines.discard(each))[0]
        )
        for each in (late, gone, later):
            deadlines.add(each)
        deadlines.discard(gone)
        await asyncio.sleep(4 * SWEEP_S)
        assert over == [late]
        assert (later in deadlines, len(deadlines)) == (True, 1)

    runner.run(work())


def test_the_end_of_one_may_be_that_of_another_and_a_fault_ends_nothing(
    runner: asyncio.Runner, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[int] = []

    async def work() -> None:
        things = [Thing(0.0) for _ in range(4)]

        def end(each: Thing) -> None:
            deadlines.discard(each)
            told.append(things.index(each))
            if len(told) == 1:
                for other in things[:2]:
                    deadlines.discard(other)
                raise RuntimeError("broken")

        deadlines: Deadlines[Thing] = Deadlines(end)
        for each in things:
            deadlines.add(each)
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        await asyncio.sleep(4 * SWEEP_S)
        assert len(deadlines) == 0
        asyncio.get_running_loop().set_exception_handler(None)

    runner.run(work())
    assert len(told) == len(set(told)) >= 2
