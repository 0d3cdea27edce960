"""Micro-batches that form by themselves: what came while a batch was under way is the next one.

Nothing waits for a timer: a lone request is scored at once, and under load the batches grow just
as large as the load asks for.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from modelyard.dataplane.v1 import dataplane_pb2

from serving_svc.runtimes import Matrix, Scorer

MOST_BATCH_ROWS = 4_096
MOST_QUEUED_ROWS = 16_384
#: A batch that is expected to take no longer, in seconds, is scored on the loop itself: the way
#: to a thread and back takes as long.
INLINE_S = 0.0005
#: Weight of the last batch in the time that a row is expected to take.
_EASE = 0.2
_FLOAT = np.dtype("<f4")
_log = logging.getLogger(__name__)

Result = dataplane_pb2.InferItemResult


class Sink:
    """Where the answers of one caller go.

    Attributes:
        pending: Requests without an answer, and answers that the caller has not taken.
        unsent: Those answers alone.
        closed: Set when the caller has left.
    """

    def __init__(self, answer: Callable[[Sequence[Result]], None]) -> None:
        self.pending = 0
        self.unsent = 0
        self.closed = False
        self._answer = answer

    def put(self, results: Sequence[Result]) -> None:
        """Add answers."""
        if not self.closed:
            self._answer(results)


@dataclass(slots=True)
class _Waiting:
    item: dataplane_pb2.InferItem
    sink: Sink
    arrived: float


@dataclass(slots=True)
class Load:
    """What happened since the last report."""

    waits_us: float = 0.0
    batches: int = 0
    items: int = 0

    @property
    def mean_wait_us(self) -> int:
        """Mean microseconds in the queue."""
        return int(self.waits_us / self.items) if self.items else 0


@dataclass(slots=True)
class MicroBatcher:
    """Scores what is waiting, together, in a worker thread; lives on one event loop.

    Args:
        scorer: The model.
        inputs: Columns of its input.
        outputs: Columns of its output.
        most_batch_rows: Rows of one batch.
        most_queued_rows: Rows that may wait; more are refused.
    """

    scorer: Scorer
    inputs: int
    outputs: int
    most_batch_rows: int = MOST_BATCH_ROWS
    most_queued_rows: int = MOST_QUEUED_ROWS
    queued_rows: int = 0
    scoring_rows: int = 0
    load: Load = field(default_factory=Load)
    clock: Callable[[], float] = time.perf_counter
    _queue: deque[_Waiting] = field(default_factory=deque)
    _running: asyncio.Task[None] | None = None
    _row_s: float = 1.0
    _worker: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(1, thread_name_prefix="score")
    )

    @property
    def busy(self) -> bool:
        """Whether anything waits or is being scored."""
        return bool(self.queued_rows or self.scoring_rows)

    def submit(self, items: Sequence[dataplane_pb2.InferItem], sink: Sink) -> None:
        """Queue requests; those that can't be taken are answered at once."""
        now = self.clock()
        sink.pending += len(items)
        refused = []
        for item in items:
            reason = self._objection(item, sink)
            if reason:
                refused.append(Result(id=item.id, error_reason=reason))
            else:
                self.queued_rows += item.rows
                self._queue.append(_Waiting(item, sink, now))
        if refused:
            sink.put(refused)
        if self._queue and self._running is None:
            self._running = asyncio.get_running_loop().create_task(self._run())

    def take_load(self) -> Load:
        """What happened since the last call."""
        taken, self.load = self.load, Load()
        return taken

    def close(self) -> None:
        """Let the worker go."""
        self._worker.shutdown(wait=False)

    def _objection(self, item: dataplane_pb2.InferItem, sink: Sink) -> str:
        if not 0 < item.rows <= self.most_batch_rows:
            return "INVALID_ROWS"
        if len(item.inputs) != item.rows * self.inputs * _FLOAT.itemsize:
            return "INVALID_SHAPE"
        full = self.queued_rows + item.rows > self.most_queued_rows
        if full or sink.unsent > self.most_queued_rows:
            return "RESOURCE_EXHAUSTED"
        return ""

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._queue:
                batch = self._next_batch()
                begun = self.clock()
                items = [waiting.item for waiting in batch]
                if self.scoring_rows * self._row_s <= INLINE_S:
                    results = self._score(items)
                else:
                    results = await loop.run_in_executor(self._worker, self._score, items)
                self._row_s += _EASE * ((self.clock() - begun) / self.scoring_rows - self._row_s)
                self.scoring_rows = 0
                self._hand_out(batch, results, begun)
        finally:
            self._running = None

    def _next_batch(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        rows = 0
        while self._queue and rows + self._queue[0].item.rows <= self.most_batch_rows:
            waiting = self._queue.popleft()
            rows += waiting.item.rows
            batch.append(waiting)
        self.queued_rows -= rows
        self.scoring_rows = rows
        return batch

    def _score(self, items: Sequence[dataplane_pb2.InferItem]) -> list[Result]:
        try:
            return self._score_together(items)
        except Exception as error:
            if len(items) > 1:
                # One that can't be scored must not take the others with it.
                return [result for item in items for result in self._score([item])]
            _log.warning("the model failed", exc_info=error)
            return [Result(id=items[0].id, error_reason="MODEL_FAILED")]

    def _score_together(self, items: Sequence[dataplane_pb2.InferItem]) -> list[Result]:
        raw = items[0].inputs if len(items) == 1 else b"".join([item.inputs for item in items])
        matrix: Matrix = np.frombuffer(raw, dtype=_FLOAT).reshape(-1, self.inputs)
        scores = self.scorer(matrix)
        if scores.shape != (len(matrix), self.outputs):
            raise ValueError("the model gave another shape than its signature has")
        finite: npt.NDArray[np.bool_] = np.logical_and.reduce(np.isfinite(scores), axis=1)
        if not finite.all():
            return self._without_infinite(items, scores, finite)
        answer = scores.astype(_FLOAT, copy=False).tobytes()
        width = self.outputs * _FLOAT.itemsize
        results, at = [], 0
        for item in items:
            end = at + item.rows * width
            results.append(Result(id=item.id, outputs=answer[at:end]))
            at = end
        return results

    def _without_infinite(
        self,
        items: Sequence[dataplane_pb2.InferItem],
        scores: Matrix,
        finite: npt.NDArray[np.bool_],
    ) -> list[Result]:
        results, at = [], 0
        for item in items:
            rows = slice(at, at + item.rows)
            at += item.rows
            if finite[rows].all():
                answer = scores[rows].astype(_FLOAT, copy=False).tobytes()
                results.append(Result(id=item.id, outputs=answer))
            else:
                results.append(Result(id=item.id, error_reason="OUTPUT_NOT_FINITE"))
        return results

    def _hand_out(self, batch: Sequence[_Waiting], results: Sequence[Result], begun: float) -> None:
        sinks: dict[Sink, list[Result]] = {}
        score_us = int((self.clock() - begun) * 1e6)
        for waiting, result in zip(batch, results, strict=True):
            waited = (begun - waiting.arrived) * 1e6
            result.queue_us, result.score_us = int(waited), score_us
            self.load.waits_us += waited
            sinks.setdefault(waiting.sink, []).append(result)
        self.load.batches += 1
        self.load.items += len(batch)
        for sink, some in sinks.items():
            sink.put(some)
