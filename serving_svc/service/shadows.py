"""Use case: what shadows scored, held against what was answered, from the prediction log."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import isfinite
from typing import Protocol

from service_kit.clock import Clock
from service_kit.errors import InvalidArgument, Unavailable
from serving_svc.domain.predictions import LogFile, asked_at, first_id_at, id_after
from serving_svc.domain.shadows import (
    DEFAULT_THRESHOLD,
    DEFAULT_TOLERANCE,
    Pairs,
    ShadowComparison,
    compared,
    ordered,
)
from serving_svc.service.ports import Store

DEFAULT_WINDOW = timedelta(days=1)
#: Rows of the log that one call reads: the newest of the window, and at least one file.
MOST_ROWS = 400_000
MOST_FILES = 2_000
#: How long a call waits for the log to take in what the stream holds.
CATCH_UP_S = 2.0
#: How long a call waits for its turn: one at a time reads, for what it holds in memory.
TURN_S = 5.0
_TRIES = 3


class Catalogue(Protocol):
    """Which files make up the log."""

    def within(self, endpoint_id: str, first: str, before: str, most: int) -> Sequence[LogFile]: ...


class Reader(Protocol):
    """Rows of files in pairs."""

    def pairs(self, files: Sequence[LogFile], first: str, before: str) -> list[Pairs]: ...


@dataclass(frozen=True, slots=True)
class ComparedWindow:
    """Comparisons of the predictions asked for from `start` until `end`.

    Attributes:
        truncated: Whether the window that was asked for has more rows than were read.
    """

    comparisons: Sequence[ShadowComparison]
    start: datetime
    end: datetime
    truncated: bool


class ShadowService:
    """Compares shadows.

    Args:
        store: Knows the endpoints.
        catch_up: Has the log take in what its stream holds.
        most_rows: Rows of the log that one call reads at most.
    """

    def __init__(
        self,
        store: Store,
        catalogue: Catalogue,
        reader: Reader,
        clock: Clock,
        catch_up: Callable[[float], bool],
        most_rows: int = MOST_ROWS,
    ) -> None:
        self._store = store
        self._catalogue = catalogue
        self._reader = reader
        self._clock = clock
        self._catch_up = catch_up
        self._most_rows = most_rows
        self._reading = threading.Lock()

    def compare(
        self,
        endpoint_id: str,
        start: datetime | None = None,
        end: datetime | None = None,
        threshold: float | None = None,
        tolerance: float | None = None,
    ) -> ComparedWindow:
        """Compare the shadows of an endpoint with who answered.

        Raises NotFound (`ENDPOINT_NOT_FOUND`), InvalidArgument (`INVALID_WINDOW`, `NOT_FINITE`,
        `OUT_OF_RANGE`), Unavailable (`LOG_INCOMPLETE`, `COMPARISON_BUSY`).
        """
        with self._store.read() as unit:
            unit.endpoint(endpoint_id)
        end = end or self._clock.now()
        start = start or end - DEFAULT_WINDOW
        if start >= end:
            raise InvalidArgument("INVALID_WINDOW", "must lie before end_time", field="start_time")
        limit = DEFAULT_THRESHOLD if threshold is None else threshold
        least = DEFAULT_TOLERANCE if tolerance is None else tolerance
        if not isfinite(limit):
            raise InvalidArgument("NOT_FINITE", "must be a finite number", field="threshold")
        if not 0 <= least < float("inf"):
            raise InvalidArgument("OUT_OF_RANGE", "must be 0 or more", field="tolerance")
        if not self._reading.acquire(timeout=TURN_S):
            raise Unavailable("COMPARISON_BUSY", "other comparisons are under way")
        try:
            self._catch_up(CATCH_UP_S)
            pairs, read_from = self._pairs(endpoint_id, start, end)
            found = ordered([compared(each, limit, least) for each in pairs])
        finally:
            self._reading.release()
        return ComparedWindow(found, read_from or start, end, truncated=read_from is not None)

    def _pairs(
        self, endpoint_id: str, start: datetime, end: datetime
    ) -> tuple[list[Pairs], datetime | None]:
        """The pairs of a window, and from when on, when not from its start on."""
        first, before = first_id_at(start), first_id_at(end)
        for _ in range(_TRIES):
            files, after = self._newest(endpoint_id, first, before)
            try:
                pairs = self._reader.pairs(files, id_after(after) if after else first, before)
            except FileNotFoundError:
                # It was merged with others since it was listed.
                continue
            return pairs, asked_at(after) if after else None
        raise Unavailable("LOG_INCOMPLETE", "a file of the prediction log can't be read")

    def _newest(self, endpoint_id: str, first: str, before: str) -> tuple[list[LogFile], str]:
        """Files to read, and the id after which they hold every row; empty when from `first` on.

        Files come by their greatest id, so no file that is left out has a row after the greatest
        id of the first of them: pairs are whole there, in whichever files their rows are.
        """
        chosen: list[LogFile] = []
        rows = 0
        for file in self._catalogue.within(endpoint_id, first, before, MOST_FILES + 1):
            if chosen and (rows + file.rows > self._most_rows or len(chosen) == MOST_FILES):
                return chosen, file.max_id
            chosen.append(file)
            rows += file.rows
        return chosen, ""
