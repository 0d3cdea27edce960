"""The log of predictions and exposures: bounded, in batches, never in the way of a reply."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from gateway.dataplane.inputs import Columns, InputPlan
from gateway.dataplane.log_encode import encode_exposures, encode_predictions
from service_kit import metrics
from service_kit.errors import DomainError
from service_kit.streams import Event

PREDICTIONS, EXPOSURES = "predictions", "exposures"
FLUSH_S = 0.05
FLUSH_ROWS = 500
MOST_ROWS = 50_000
_RETRY_S = 0.5

_log = logging.getLogger(__name__)
_dropped = metrics.counter("log_dropped_total", "Rows that no log holds.", ("stream",))
_logged = metrics.counter("log_rows_total", "Rows appended to a stream.", ("stream",))
_buffered = metrics.gauge("log_buffered_rows", "Rows waiting to be appended.")

Append = Callable[[str, Sequence[Event]], None]
Encode = Callable[[str, Sequence[Any]], tuple[list[Event], int]]


@dataclass(slots=True)
class PredictionChunk:
    """Rows of one request that one version scored.

    Attributes:
        shadow: Whether its answer went to nobody.
        columns: Inputs before encoding, and entity keys; empty when they are in `instances`, or
            only the matrix is known.
        matrix: Inputs as the model saw them: float32, little-endian, row-major.
        times_us: When looked-up values became known, by field.
        fallback: Which fallback answered, or empty.
    """

    endpoint: str
    variant: str
    model_version: str
    generation: int
    shadow: bool
    plan: InputPlan
    ids: Sequence[str]
    units: Sequence[str]
    event_times_us: Sequence[int]
    scores: list[float]
    latency_us: int
    columns: Columns
    matrix: bytes = b""
    instances: Sequence[Mapping[str, Any]] = ()
    times_us: dict[str, list[int]] = field(default_factory=dict)
    fallback: str = ""

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.ids)

    @property
    def key(self) -> tuple[Any, ...]:
        """What rows of one batch share."""
        return self.endpoint, self.variant, self.model_version, self.generation, self.shadow


@dataclass(slots=True)
class ExposureRow:
    """A unit that was shown an arm.

    Attributes:
        assigned: Place of the arm that it got.
        scores: One an arm, NaN where it did not score.
        latencies_us: One an arm.
        errors: 1 where an arm failed.
    """

    endpoint: str
    experiment: str
    arms: tuple[str, ...]
    unit: str
    prediction_id: str
    event_time_us: int
    assigned: int
    scores: list[float]
    latencies_us: list[int]
    errors: list[int]

    @property
    def rows(self) -> int:
        """It is one."""
        return 1

    @property
    def key(self) -> tuple[Any, ...]:
        """What rows of one batch share."""
        return self.endpoint, self.experiment, self.arms


class EventLog:
    """Collects rows and appends them to the streams a few times a second.

    When the streams don't answer, rows wait, and are dropped and counted once too many do.

    Args:
        append: Appends events to a stream; called in a thread.
        most_rows: Rows kept at most.
    """

    def __init__(self, append: Append, *, most_rows: int = MOST_ROWS) -> None:
        self._append = append
        self._most = most_rows
        self._predictions: list[PredictionChunk] = []
        self._exposures: list[ExposureRow] = []
        self._unsent: list[tuple[str, list[Event], int]] = []
        self._rows = 0
        self._full = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._sending: asyncio.Task[int] | None = None
        self.dropped = 0

    def start(self) -> None:
        """Begin to append."""
        self._task = asyncio.create_task(self._run(), name="event log")

    async def stop(self) -> None:
        """Append what is left, once, and end."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        if not await self._flush():
            lost = sum(rows for _, _, rows in self._unsent)
            _log.warning("rows were not logged", extra={"rows": lost})

    def predictions(self, chunk: PredictionChunk) -> None:
        """Log predictions."""
        if self._room(len(chunk.ids), PREDICTIONS):
            self._predictions.append(chunk)

    def exposures(self, rows: Sequence[ExposureRow]) -> None:
        """Log exposures."""
        if self._room(len(rows), EXPOSURES):
            self._exposures.extend(rows)

    def _room(self, rows: int, stream: str) -> bool:
        if self._rows + rows > self._most:
            self._drop(stream, rows)
            return False
        self._rows += rows
        if self._rows >= FLUSH_ROWS:
            self._full.set()
        return True

    async def _run(self) -> None:
        while True:
            try:
                async with asyncio.timeout(FLUSH_S):
                    await self._full.wait()
            except TimeoutError:
                pass
            self._full.clear()
            if self._rows and not await self._flush():
                await asyncio.sleep(_RETRY_S)

    async def _flush(self) -> bool:
        if self._sending is not None:
            # Left by a flush that was cancelled: two at once would send the same rows.
            await asyncio.shield(self._sending)
        predictions, self._predictions = self._predictions, []
        exposures, self._exposures = self._exposures, []
        self._sending = asyncio.create_task(
            asyncio.to_thread(self._send, predictions, exposures), name="append to streams"
        )
        self._sending.add_done_callback(self._sent)
        await asyncio.shield(self._sending)
        return not self._unsent

    def _sent(self, sending: asyncio.Task[int]) -> None:
        self._sending = None
        self._rows -= sending.result()
        _buffered.set(self._rows)

    def _send(self, predictions: list[PredictionChunk], exposures: list[ExposureRow]) -> int:
        """Append what waits, in a thread; gives the rows that wait no longer."""
        gone = self._encode(PREDICTIONS, encode_predictions, predictions)
        gone += self._encode(EXPOSURES, encode_exposures, exposures)
        while self._unsent:
            stream, events, rows = self._unsent[0]
            try:
                self._append(stream, events)
            except DomainError:
                break
            except Exception:
                _log.exception("rows cannot be appended", extra={"stream": stream, "rows": rows})
                self._drop(stream, rows)
            else:
                _logged.labels(stream).inc(rows)
            self._unsent.pop(0)
            gone += rows
        return gone

    def _encode(self, stream: str, encode: Encode, found: Sequence[Any]) -> int:
        """Make events of rows; gives the number of those of which none can be made."""
        if not found:
            return 0
        try:
            self._unsent.append((stream, *encode(stream, found)))
        except Exception:
            rows: int = sum(each.rows for each in found)
            _log.exception("rows cannot be encoded", extra={"stream": stream, "rows": rows})
            self._drop(stream, rows)
            return rows
        return 0

    def _drop(self, stream: str, rows: int) -> None:
        self.dropped += rows
        _dropped.labels(stream).inc(rows)
