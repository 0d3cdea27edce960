"""The log of predictions and exposures: bounded, in batches, never in the way of a reply."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from google.protobuf.message import Message

from gateway.dataplane.ask import BlockAnswer, Prepared
from gateway.dataplane.log_encode import exposure_batches, prediction_batch
from gateway.dataplane.log_rows import (
    NOTHING_MORE,
    ExposureRow,
    More,
    PredictionRows,
    block_key,
    key_of,
)
from gateway.dataplane.routing import Route, Variant
from service_kit import metrics
from service_kit.errors import DomainError
from service_kit.streams import Event

PREDICTIONS, EXPOSURES = "predictions", "exposures"
FLUSH_S = 0.1
FLUSH_ROWS = 4_000
MOST_ROWS = 50_000
_RETRY_S = 0.5

_log = logging.getLogger(__name__)
_dropped = metrics.counter("log_dropped_total", "Rows that no log holds.", ("stream",))
_logged = metrics.counter("log_rows_total", "Rows appended to a stream.", ("stream",))
_buffered = metrics.gauge("log_buffered_rows", "Rows waiting to be appended.")

Append = Callable[[str, Sequence[Event]], None]


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
        self._open: dict[Any, PredictionRows] = {}
        self._closed: list[PredictionRows] = []
        self._exposures: list[ExposureRow] = []
        self._unsent: list[tuple[str, list[Event], int]] = []
        self._rows = 0
        self._some = asyncio.Event()
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

    def predictions(
        self,
        route: Route,
        variant: Variant,
        ids: Sequence[str],
        units: Sequence[str],
        event_times_us: Sequence[int],
        scores: Sequence[float],
        latencies_us: Sequence[int],
        prepared: Prepared | None,
        more: More = NOTHING_MORE,
    ) -> None:
        """Log rows of one request that one version scored.

        Args:
            units: What the traffic was split by; `ids` itself when that was the predictions' ids.
            scores: One a row, like the latencies; none of a shadow that failed.
            prepared: The inputs; nothing when they could not be had.
        """
        if not self._room(len(ids), PREDICTIONS):
            return
        key = key_of(route, variant, ids, units, prepared, more)
        rows = self._rows_of(key, route, variant, shadow=more.shadow)
        rows.add(ids, units, event_times_us, scores, latencies_us, prepared, more)
        self._close_full(key)

    def block(self, answer: BlockAnswer, latency_us: int) -> None:
        """Log the rows of a matrix that one version scored."""
        if self._room(answer.count, PREDICTIONS):
            key = block_key(answer.route, answer.variant)
            self._rows_of(key, answer.route, answer.variant).add_block(answer, latency_us)
            self._close_full(key)

    def exposures(self, rows: Sequence[ExposureRow]) -> None:
        """Log exposures."""
        if self._room(len(rows), EXPOSURES):
            self._exposures.extend(rows)

    def _rows_of(
        self, key: tuple[Any, ...], route: Route, variant: Variant, *, shadow: bool = False
    ) -> PredictionRows:
        rows = self._open.get(key)
        if rows is None:
            rows = self._open[key] = PredictionRows(route, variant, shadow=shadow)
        return rows

    def _close_full(self, key: tuple[Any, ...]) -> None:
        if len(self._open[key]) >= FLUSH_ROWS:
            # Its event is large enough, even when the streams are away for long.
            self._closed.append(self._open.pop(key))

    def _room(self, rows: int, stream: str) -> bool:
        if self._rows + rows > self._most:
            self._drop(stream, rows)
            return False
        if not self._rows:
            self._some.set()
        self._rows += rows
        if self._rows >= FLUSH_ROWS:
            self._full.set()
        return True

    async def _run(self) -> None:
        while True:
            if not self._rows:
                self._some.clear()
                await self._some.wait()
            try:
                async with asyncio.timeout(FLUSH_S):
                    await self._full.wait()
            except TimeoutError:
                pass  # few rows came: they go now
            self._full.clear()
            if self._rows and not await self._flush():
                await asyncio.sleep(_RETRY_S)

    async def _flush(self) -> bool:
        if self._sending is not None:
            # Left by a flush that was cancelled: two at once would send the same rows.
            await asyncio.shield(self._sending)
        # Encoded here and not in a thread: two threads that take turns at the interpreter need
        # several times the CPU, and keep the requests waiting for longer.
        self._closed.extend(self._open.values())
        self._open.clear()
        while self._closed:
            self._encode_predictions(self._closed.pop(0))
            await asyncio.sleep(0)
        self._encode_exposures()
        self._sending = asyncio.create_task(asyncio.to_thread(self._send), name="append to streams")
        self._sending.add_done_callback(self._sent)
        await asyncio.shield(self._sending)
        return not self._unsent

    def _sent(self, sending: asyncio.Task[int]) -> None:
        self._sending = None
        self._rows -= sending.result()
        _buffered.set(self._rows)

    def _encode_predictions(self, rows: PredictionRows) -> None:
        self._encode(
            PREDICTIONS, len(rows), lambda: [(rows.route.endpoint, prediction_batch(rows))]
        )

    def _encode_exposures(self) -> None:
        exposures, self._exposures = self._exposures, []
        if exposures:
            self._encode(EXPOSURES, len(exposures), lambda: exposure_batches(exposures))

    def _encode(
        self, stream: str, rows: int, encode: Callable[[], Sequence[tuple[str, Message]]]
    ) -> None:
        """Make events of rows; they are dropped when none can be made."""
        try:
            events = [Event.of(stream, key, payload) for key, payload in encode()]
            self._unsent.append((stream, events, rows))
        except Exception:
            _log.exception("rows cannot be encoded", extra={"stream": stream, "rows": rows})
            self._drop(stream, rows)
            self._rows -= rows

    def _send(self) -> int:
        """Append what waits, in a thread; gives the rows that wait no longer."""
        gone = 0
        while self._unsent:
            stream, events, rows = self._unsent[0]
            try:
                self._append(stream, events)
            except DomainError:
                break  # the streams are away: it goes with a later flush
            except Exception:
                _log.exception("rows cannot be appended", extra={"stream": stream, "rows": rows})
                self._drop(stream, rows)
            else:
                _logged.labels(stream).inc(rows)
            self._unsent.pop(0)
            gone += rows
        return gone

    def _drop(self, stream: str, rows: int) -> None:
        self.dropped += rows
        _dropped.labels(stream).inc(rows)
