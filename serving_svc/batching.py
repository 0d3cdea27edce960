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
from itertools import pairwise

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

Request = dataplane_pb2.InferStreamRequest
Response = dataplane_pb2.InferStreamResponse
Answer = Callable[[Response], None]
"""Told once of a message's answer."""


@dataclass(slots=True)
class _Waiting:
    """A message in the queue; `rows` counts those of all its requests."""

    request: Request
    rows: int
    answer: Answer
    arrived: float


@dataclass(slots=True)
class Load:
    """What happened since the last report."""

    waits_us: float = 0.0
    batches: int = 0
    messages: int = 0

    @property
    def mean_wait_us(self) -> int:
        """Mean microseconds in the queue."""
        return int(self.waits_us / self.messages) if self.messages else 0


@dataclass(slots=True)
class MicroBatcher:
    """Scores what is waiting, together; lives on one event loop.

    Args:
        scorer: The model.
        inputs: Columns of its input.
        outputs: Columns of its output.
        most_batch_rows: Rows of one batch, and of one message.
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
    _running: bool = False
    _row_s: float = 1.0
    _worker: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(1, thread_name_prefix="score")
    )
    _task: asyncio.Task[None] | None = None

    @property
    def busy(self) -> bool:
        """Whether anything waits or is being scored."""
        return bool(self.queued_rows or self.scoring_rows)

    def submit(self, request: Request, answer: Answer) -> None:
        """Queue a message; one that can't be taken is answered at once."""
        rows = sum(request.rows)
        reason = self._objection(request, rows)
        if reason:
            answer(Response(id=request.id, error_reasons=[reason]))
            return
        self.queued_rows += rows
        self._queue.append(_Waiting(request, rows, answer, self.clock()))
        if not self._running:
            self._running = True
            # Not at once: what else came in this turn of the loop goes along.
            asyncio.get_running_loop().call_soon(self._score_waiting)

    def take_load(self) -> Load:
        """What happened since the last call."""
        taken, self.load = self.load, Load()
        return taken

    def close(self) -> None:
        """Let the worker go."""
        self._worker.shutdown(wait=False)

    def _objection(self, request: Request, rows: int) -> str:
        if not 0 < rows <= self.most_batch_rows or not all(request.rows):
            return "INVALID_ROWS"
        if len(request.inputs) != rows * self.inputs * _FLOAT.itemsize:
            return "INVALID_SHAPE"
        if self.queued_rows + rows > self.most_queued_rows:
            return "RESOURCE_EXHAUSTED"
        return ""

    def _score_waiting(self) -> None:
        while self._queue:
            batch = self._next_batch()
            if self.scoring_rows * self._row_s > INLINE_S:
                self._task = asyncio.get_running_loop().create_task(self._in_worker(batch))
                return
            begun = self.clock()
            self._hand_out(batch, self._score(batch), begun)
        self._running = False

    async def _in_worker(self, batch: list[_Waiting]) -> None:
        begun = self.clock()
        loop = asyncio.get_running_loop()
        self._hand_out(batch, await loop.run_in_executor(self._worker, self._score, batch), begun)
        self._score_waiting()

    def _next_batch(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        rows = 0
        while self._queue and rows + self._queue[0].rows <= self.most_batch_rows:
            waiting = self._queue.popleft()
            rows += waiting.rows
            batch.append(waiting)
        self.queued_rows -= rows
        self.scoring_rows = rows
        return batch

    def _score(self, batch: Sequence[_Waiting]) -> list[Response]:
        inputs = [waiting.request.inputs for waiting in batch]
        try:
            scores = self._scored(inputs[0] if len(inputs) == 1 else b"".join(inputs))
        except Exception:
            # One that can't be scored must not take the others with it.
            return [self._score_apart(waiting.request) for waiting in batch]
        finite: npt.NDArray[np.bool_] | None = None
        if not np.isfinite(scores).all():
            finite = np.logical_and.reduce(np.isfinite(scores), axis=1)
        answer = scores.astype(_FLOAT, copy=False).tobytes()
        responses, at = [], 0
        for waiting in batch:
            end = at + waiting.rows
            reasons = _reasons(waiting.request, finite[at:end]) if finite is not None else ()
            width = self.outputs * _FLOAT.itemsize
            outputs = answer[at * width : end * width]
            responses.append(
                Response(id=waiting.request.id, outputs=outputs, error_reasons=reasons)
            )
            at = end
        return responses

    def _score_apart(self, request: Request) -> Response:
        width = self.inputs * _FLOAT.itemsize
        outputs, reasons, at = [], [], 0
        for rows in request.rows:
            end = at + rows
            try:
                scores = self._scored(request.inputs[at * width : end * width])
                reasons.append("" if np.isfinite(scores).all() else "OUTPUT_NOT_FINITE")
            except Exception as error:
                _log.warning("the model failed", exc_info=error)
                scores = np.zeros((rows, self.outputs), dtype=_FLOAT)
                reasons.append("MODEL_FAILED")
            outputs.append(scores.astype(_FLOAT, copy=False).tobytes())
            at = end
        return Response(id=request.id, outputs=b"".join(outputs), error_reasons=reasons)

    def _scored(self, inputs: bytes) -> Matrix:
        matrix: Matrix = np.frombuffer(inputs, dtype=_FLOAT).reshape(-1, self.inputs)
        scores = self.scorer(matrix)
        if scores.shape != (len(matrix), self.outputs):
            raise ValueError("the model gave another shape than its signature has")
        return scores

    def _hand_out(
        self, batch: Sequence[_Waiting], responses: Sequence[Response], begun: float
    ) -> None:
        took = self.clock() - begun
        self._row_s += _EASE * (took / self.scoring_rows - self._row_s)
        self.scoring_rows = 0
        self.load.batches += 1
        self.load.messages += len(batch)
        for waiting, response in zip(batch, responses, strict=True):
            waited = (begun - waiting.arrived) * 1e6
            self.load.waits_us += waited
            response.queue_us, response.score_us = int(waited), int(took * 1e6)
            response.queued_rows = self.queued_rows
            waiting.answer(response)


def _reasons(request: Request, finite: npt.NDArray[np.bool_]) -> list[str]:
    """The failures of a message's requests, whose rows are finite or not; none when all are."""
    if finite.all():
        return []
    starts = np.cumsum([0, *request.rows])
    return [
        "" if finite[start:end].all() else "OUTPUT_NOT_FINITE" for start, end in pairwise(starts)
    ]
