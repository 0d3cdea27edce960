"""Micro-batches: what is scored at once, what waits, where it is scored, what counts as failed."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving_svc import batching
from serving_svc.batching import INLINE_S, MicroBatcher, Request, Response
from serving_svc.runtimes import Matrix, Scorer
from tests.serving_svc.test_replica import floats, message

ONE = np.ones((1, 3), dtype=np.float32)


def first_column(matrix: Matrix) -> Matrix:
    return matrix[:, :1].copy()


async def settled(batcher: MicroBatcher) -> None:
    while batcher.busy:  # noqa: ASYNC110
        await asyncio.sleep(0.0)


async def known(batcher: MicroBatcher, got: list[Response]) -> None:
    """Have it find out how quick its model is."""
    while batcher._row_s > INLINE_S / 1000:
        batcher.submit(message(0, ONE), got.append)
        await settled(batcher)
    got.clear()


def run(scorer: Scorer, test: Callable[[MicroBatcher, list[Response]], object]) -> None:
    """Call a test on an event loop with a batcher whose model is known to be quick."""

    async def inside() -> None:
        got: list[Response] = []
        batcher = MicroBatcher(scorer, 3, 1, clock=lambda: 0.0)
        await known(batcher, got)
        test(batcher, got)
        await settled(batcher)
        batcher.close()

    asyncio.run(inside())


def test_a_lone_message_is_answered_before_the_loop_goes_on() -> None:
    def test(batcher: MicroBatcher, got: list[Response]) -> None:
        batcher.take_load()
        batcher.submit(message(7, 2 * ONE, 3 * ONE), got.append, alone=True)
        assert [(each.id, floats(each), each.queue_us) for each in got] == [(7, [2.0, 3.0], 0)]
        assert not batcher.busy
        load = batcher.take_load()
        assert (load.batches, load.messages) == (1, 1)

    run(first_column, test)


def test_messages_of_several_callers_go_together() -> None:
    sizes: list[int] = []

    def counting(matrix: Matrix) -> Matrix:
        sizes.append(len(matrix))
        return first_column(matrix)

    def test(batcher: MicroBatcher, got: list[Response]) -> None:
        sizes.clear()
        batcher.submit(message(1, ONE), got.append)
        # One that comes alone does not overtake what is waiting.
        batcher.submit(message(2, 2 * ONE, 2 * ONE), got.append, alone=True)
        assert not got

    run(counting, test)
    assert sizes == [3]


def test_what_is_wrong_with_a_lone_message_is_told_at_once() -> None:
    def moody(matrix: Matrix) -> Matrix:
        if (matrix == 13).any():
            raise RuntimeError("unlucky")
        return first_column(matrix)

    def test(batcher: MicroBatcher, got: list[Response]) -> None:
        batcher.submit(message(1, ONE, 13 * ONE, 2 * ONE), got.append, alone=True)
        batcher.submit(Request(id=2, rows=[1, 0], inputs=ONE.tobytes()), got.append, alone=True)
        batcher.submit(Request(id=3, rows=[2], inputs=ONE.tobytes()), got.append, alone=True)
        reasons = {each.id: list(each.error_reasons) for each in got}
        assert reasons == {1: ["", "MODEL_FAILED", ""], 2: ["INVALID_ROWS"], 3: ["INVALID_SHAPE"]}
        assert (floats(got[0])[0], floats(got[0])[2]) == (1.0, 2.0)

    run(moody, test)


def test_a_lone_message_that_may_take_long_is_not_scored_on_the_loop() -> None:
    threads: list[str] = []

    def named(matrix: Matrix) -> Matrix:
        threads.append(threading.current_thread().name)
        return first_column(matrix)

    async def inside() -> None:
        got: list[Response] = []
        batcher = MicroBatcher(named, 3, 1)
        batcher.submit(message(1, ONE), got.append, alone=True)
        assert not got
        await settled(batcher)
        batcher.close()
        assert floats(got[0]) == [1.0]

    asyncio.run(inside())
    assert threads[0].startswith("score")


class Timed:
    """A model that takes as long by its own clock as it is told, and notes its threads."""

    def __init__(self) -> None:
        self.threads: set[str] = set()
        self.now = self.pause = 0.0

    def __call__(self, matrix: Matrix) -> Matrix:
        self.threads.add(threading.current_thread().name.split("_")[0])
        self.now += self.pause
        return first_column(matrix)


def test_an_interruption_sends_no_batch_to_the_thread() -> None:
    model = Timed()

    async def inside() -> None:
        got: list[Response] = []
        batcher = MicroBatcher(model, 3, 1, clock=lambda: model.now)
        await known(batcher, got)
        model.threads.clear()
        for number in range(60):
            model.pause = (
                0.1 if number % 4 == 1 else 0.0001
            )  # every fourth time others had the core
            batcher.submit(message(number, ONE), got.append, alone=number % 2 == 0)
            await settled(batcher)
        batcher.close()

    asyncio.run(inside())
    assert "score" not in model.threads


@pytest.mark.parametrize("inline", [True, False])
def test_a_model_that_takes_long_however_few_its_rows_stays_in_the_thread(inline: bool) -> None:
    model = Timed()

    async def inside() -> None:
        got: list[Response] = []
        batcher = MicroBatcher(model, 3, 1, clock=lambda: model.now, inline=inline)
        await known(batcher, got)
        model.pause = 0.02 if inline else 0.0  # one that is quick, but must not be trusted
        wide = message(1, np.repeat(ONE, 512, axis=0))
        for number in range(30):
            if number == 8:
                model.threads.clear()
            request = wide if number % 2 else message(number, ONE)
            batcher.submit(request, got.append, alone=True)
            await settled(batcher)
        batcher.close()

    asyncio.run(inside())
    assert model.threads == {"score"}


@pytest.mark.parametrize(("share", "wait_us"), [(0.1, 111), (0.5, 1_000), (0.9, 9_000)])
def test_what_waits_before_it_comes_is_estimated_by_how_busy_it_is(
    share: float, wait_us: float
) -> None:
    now = [100.0]

    def scorer(matrix: Matrix) -> Matrix:
        now[0] += 0.001
        return first_column(matrix)

    async def inside() -> int:
        got: list[Response] = []
        batcher = MicroBatcher(scorer, 3, 1, clock=lambda: now[0])
        for number in range(200):
            batcher.submit(message(number, ONE), got.append)
            await settled(batcher)
            now[0] += 0.001 / share - 0.001
        batcher.close()
        assert batcher.load.waits_us == pytest.approx(0, abs=1)
        taken = batcher.take_load().mean_wait_us
        assert batcher.take_load().mean_wait_us == 0
        return taken

    assert asyncio.run(inside()) == pytest.approx(wait_us, rel=0.02)


FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)
BROKEN = st.sampled_from([float("nan"), float("inf"), float("-inf")])


@given(
    requests=st.lists(
        st.lists(st.one_of(FINITE, BROKEN), min_size=1, max_size=5), min_size=1, max_size=6
    ),
    few=st.sampled_from([0, batching._FEW]),
)
def test_a_request_fails_by_its_own_outputs_alone(requests: list[list[float]], few: int) -> None:
    matrices = [
        np.repeat(np.array(rows, dtype=np.float32)[:, np.newaxis], 3, axis=1) for rows in requests
    ]
    expected = ["" if np.isfinite(rows).all() else "OUTPUT_NOT_FINITE" for rows in requests]
    if not any(expected):
        expected = []

    def test(batcher: MicroBatcher, got: list[Response]) -> None:
        batcher.submit(message(1, *matrices), got.append, alone=True)
        assert list(got[0].error_reasons) == expected
        assert np.array_equal(floats(got[0]), np.concatenate(requests), equal_nan=True)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batching, "_FEW", few)
        run(first_column, test)


def test_the_largest_floats_are_finite_also_together() -> None:
    largest = np.full((200, 3), np.finfo(np.float32).max, dtype=np.float32)

    def test(batcher: MicroBatcher, got: list[Response]) -> None:
        batcher.submit(message(1, largest), got.append, alone=True)
        assert not got[0].error_reasons

    run(first_column, test)


def test_a_plugin_may_answer_in_double_precision() -> None:
    def test(batcher: MicroBatcher, got: list[Response]) -> None:
        batcher.submit(message(1, 0.5 * ONE), got.append, alone=True)
        assert floats(got[0]) == [0.5]

    run(lambda matrix: matrix[:, :1].astype(np.float64), test)  # type: ignore[arg-type,return-value]
