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
from math import isfinite
from struct import unpack

import numpy as np
import numpy.typing as npt
from modelyard.dataplane.v1 import dataplane_pb2

from serving_svc.runtimes import Scorer

MOST_BATCH_ROWS = 4_096
MOST_QUEUED_ROWS = 16_384
#: A batch that is expected to take no longer, in seconds, is scored on the loop itself: the way
#: to a thread and back costs a tenth of that, and what comes meanwhile can wait in its socket.
INLINE_S = 0.001
#: Weight of the last batches in the time that a row is expected to take.
_EASE = 0.2
#: Batches of which the quickest counts: what others do on a busy machine in the midst of a batch
#: is no reason to send the next one to a thread, which makes it worse.
_LATELY = 4
_FLOAT = np.dtype("<f4")
#: Outputs of a batch up to which Python looks through them faster than numpy does.
_FEW = 256
#: Share of the time beyond which how busy a server is can't be told from how many wait.
_MOST_BUSY = 0.99
_NOT_FINITE = "OUTPUT_NOT_FINITE"
_log = logging.getLogger(__name__)

Request = dataplane_pb2.InferStreamRequest
Response = dataplane_pb2.InferStreamResponse
Answer = Callable[[Response], None]
"""Told once of a message's answer."""
Failed = npt.NDArray[np.bool_]
_Scored = tuple[bytes, Sequence[str]]
"""A message's outputs, and the failure of each of its requests; no failures when none failed."""


@dataclass(slots=True)
class _Waiting:
    """A message in the queue; `counts` are the rows of each of its requests, `rows` of all."""

    number: int
    counts: Sequence[int]
    rows: int
    inputs: bytes
    answer: Answer
    arrived: float


@dataclass(slots=True)
class Load:
    """What happened since the last report.

    Attributes:
        since: When that was.
        busy_s: Seconds in which the model scored.
        seconds: How long ago it was; known once the load is taken.
    """

    since: float = 0.0
    waits_us: float = 0.0
    batches: int = 0
    messages: int = 0
    busy_s: float = 0.0
    seconds: float = 0.0

    @property
    def mean_wait_us(self) -> int:
        """Mean microseconds that a message waited: in the queue, and before it came there.

        What waits in a socket or at its sender has no clock of ours. It is as long as queueing
        theory says of a server that is busy for a share r of the time: r / (1 - r) batches.
        """
        if not self.messages:
            return 0
        busy = min(self.busy_s / self.seconds, _MOST_BUSY) if self.seconds > 0 else 0.0
        before = self.busy_s / self.batches * busy / (1.0 - busy)
        return int(self.waits_us / self.messages + before * 1e6)


@dataclass(slots=True)
class MicroBatcher:
    """Scores what is waiting, together; lives on one event loop.

    Args:
        scorer: The model.
        inputs: Columns of its input.
        outputs: Columns of its output.
        most_batch_rows: Rows of one batch, and of one message.
        most_queued_rows: Rows that may wait; more are refused.
        inline: Whether a quick batch may be scored on the loop itself; not of a model in another
            process, which may hang.
    """

    scorer: Scorer
    inputs: int
    outputs: int
    most_batch_rows: int = MOST_BATCH_ROWS
    most_queued_rows: int = MOST_QUEUED_ROWS
    inline: bool = True
    queued_rows: int = 0
    scoring_rows: int = 0
    load: Load = field(default_factory=Load)
    clock: Callable[[], float] = time.perf_counter
    _queue: deque[_Waiting] = field(default_factory=deque)
    _running: bool = False
    _row_s: float = 1.0
    _call_s: float = 0.0
    _lately: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=_LATELY))
    _worker: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(1, thread_name_prefix="score")
    )
    _task: asyncio.Task[None] | None = None

    def __post_init__(self) -> None:
        self.load.since = self.clock()

    @property
    def busy(self) -> bool:
        """Whether anything waits or is being scored."""
        return bool(self.queued_rows or self.scoring_rows)

    def submit(self, request: Request, answer: Answer, *, alone: bool = False) -> None:
        """Queue a message; one that can't be taken is answered at once.

        Args:
            alone: Nothing else can have come in this turn of the loop, so that a batch that is
                expected to be quick need not wait for the next one.
        """
        counts: Sequence[int] = request.rows[:]
        rows = counts[0] if len(counts) == 1 else sum(counts)
        inputs = request.inputs
        reason = self._objection(counts, rows, len(inputs))
        if reason:
            answer(Response(id=request.id, error_reasons=[reason]))
            return
        waiting = _Waiting(request.id, counts, rows, inputs, answer, self.clock())
        if not self._running:
            if alone and self._is_quick(rows):
                self._score_alone(waiting)
                return
            self._running = True
            # Not at once: what else came in this turn of the loop goes along.
            asyncio.get_running_loop().call_soon(self._score_waiting)
        self.queued_rows += rows
        self._queue.append(waiting)

    def take_load(self) -> Load:
        """What happened since the last call."""
        now = self.clock()
        taken, self.load = self.load, Load(since=now)
        taken.seconds = now - taken.since
        return taken

    def close(self) -> None:
        """Let the worker go."""
        self._worker.shutdown(wait=False)

    def _objection(self, counts: Sequence[int], rows: int, size: int) -> str:
        if not 0 < rows <= self.most_batch_rows or 0 in counts:
            return "INVALID_ROWS"
        if size != rows * self.inputs * _FLOAT.itemsize:
            return "INVALID_SHAPE"
        if self.queued_rows + rows > self.most_queued_rows:
            return "RESOURCE_EXHAUSTED"
        return ""

    def _is_quick(self, rows: int) -> bool:
        return self.inline and max(rows * self._row_s, self._call_s) <= INLINE_S

    def _score_alone(self, waiting: _Waiting) -> None:
        self.scoring_rows = waiting.rows
        scored = self._score_one(waiting)
        took = self.clock() - waiting.arrived
        self._learn(took, 1)
        self._tell(waiting, scored, 0.0, took)

    def _score_waiting(self) -> None:
        while self._queue:
            batch = self._next_batch()
            if not self._is_quick(self.scoring_rows):
                self._task = asyncio.get_running_loop().create_task(self._in_worker(batch))
                return
            self._hand_out(batch, *self._timed(batch))
        self._running = False

    async def _in_worker(self, batch: list[_Waiting]) -> None:
        loop = asyncio.get_running_loop()
        self._hand_out(batch, *await loop.run_in_executor(self._worker, self._timed, batch))
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

    def _timed(self, batch: Sequence[_Waiting]) -> tuple[Sequence[_Scored], float, float]:
        """What came of them, when that was begun, and the seconds it took in this thread."""
        begun = self.clock()
        return self._score(batch), begun, self.clock() - begun

    def _score(self, batch: Sequence[_Waiting]) -> Sequence[_Scored]:
        if len(batch) == 1:
            return (self._score_one(batch[0]),)
        try:
            outputs, failed = self._scored(b"".join([w.inputs for w in batch]), self.scoring_rows)
        except Exception:
            # One that can't be scored must not take the others with it.
            return [self._score_apart(waiting) for waiting in batch]
        width = self.outputs * _FLOAT.itemsize
        scored: list[_Scored] = []
        at = 0
        for waiting in batch:
            end = at + waiting.rows
            reasons = () if failed is None else _reasons(waiting, failed[at:end])
            scored.append((outputs[at * width : end * width], reasons))
            at = end
        return scored

    def _score_one(self, waiting: _Waiting) -> _Scored:
        try:
            outputs, failed = self._scored(waiting.inputs, waiting.rows)
        except Exception:
            return self._score_apart(waiting)
        return outputs, () if failed is None else _reasons(waiting, failed)

    def _score_apart(self, waiting: _Waiting) -> _Scored:
        width = self.inputs * _FLOAT.itemsize
        parts, reasons, at = [], [], 0
        for rows in waiting.counts:
            end = at + rows
            try:
                outputs, failed = self._scored(waiting.inputs[at * width : end * width], rows)
                reasons.append("" if failed is None else _NOT_FINITE)
            except Exception as error:
                _log.warning("the model failed", exc_info=error)
                outputs = bytes(rows * self.outputs * _FLOAT.itemsize)
                reasons.append("MODEL_FAILED")
            parts.append(outputs)
            at = end
        return b"".join(parts), reasons

    def _scored(self, inputs: bytes, rows: int) -> tuple[bytes, Failed | None]:
        """Outputs, and which rows have one that is not finite; None when none has."""
        scores = self.scorer(np.ndarray((rows, self.inputs), _FLOAT, inputs))
        if scores.shape != (rows, self.outputs):
            raise ValueError("the model gave another shape than its signature has")
        if scores.dtype != _FLOAT:
            scores = scores.astype(_FLOAT)
        outputs = scores.tobytes()
        count = rows * self.outputs
        # The sum of a few floats, in double precision, is finite when all of them are.
        if count <= _FEW and isfinite(sum(unpack(f"<{count}f", outputs))):
            return outputs, None
        finite = np.logical_and.reduce(np.isfinite(scores), axis=1)
        return outputs, None if finite.all() else ~finite

    def _hand_out(
        self, batch: Sequence[_Waiting], scored: Sequence[_Scored], begun: float, took: float
    ) -> None:
        self._learn(took, len(batch))
        for waiting, each in zip(batch, scored, strict=True):
            self._tell(waiting, each, begun - waiting.arrived, took)

    def _learn(self, took: float, messages: int) -> None:
        self._lately.append((took, self.scoring_rows))
        quickest = min([seconds / rows for seconds, rows in self._lately])
        self._row_s += _EASE * (quickest - self._row_s)
        # No batch takes less than the model's own steps, however few its rows.
        self._call_s = min(self._lately)[0]
        self.scoring_rows = 0
        self.load.batches += 1
        self.load.busy_s += took
        self.load.messages += messages

    def _tell(self, waiting: _Waiting, scored: _Scored, waited: float, took: float) -> None:
        outputs, reasons = scored
        self.load.waits_us += waited * 1e6
        response = Response(
            id=waiting.number,
            outputs=outputs,
            queue_us=int(waited * 1e6),
            score_us=int(took * 1e6),
            queued_rows=self.queued_rows,
        )
        if reasons:
            response.error_reasons.extend(reasons)
        waiting.answer(response)


def _reasons(waiting: _Waiting, failed: Failed) -> Sequence[str]:
    """The failures of a message's requests, of which some rows failed; none when no row did."""
    if not failed.any():
        return ()
    starts = np.cumsum([0, *waiting.counts])
    return [_NOT_FINITE if failed[start:end].any() else "" for start, end in pairwise(starts)]
