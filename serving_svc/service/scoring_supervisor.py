"""Has a thread at work for each stream scorer that is to run, in every process of serving."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol

from service_kit.errors import DomainError, NotFound
from serving_svc.domain.scorers import StreamScorer
from serving_svc.service.stream_scoring import (
    FIRST_PAUSE_S,
    LONGEST_PAUSE_S,
    Inference,
    ScoringLoop,
    Source,
)

#: How often the record is looked at, in seconds; who changes it here says so (`notify`).
LOOK_S = 5.0
#: The same while a thread that was told to stop goes on.
ENDING_S = 0.5
_log = logging.getLogger(__name__)


class ScorerRecord(Protocol):
    """What the supervisor must know of the record."""

    def running(self) -> Sequence[StreamScorer]:
        """Those that are to run."""
        ...

    def deleted(self) -> Sequence[StreamScorer]:
        """Those that are deleted and not forgotten."""
        ...

    def forget(self, scorer: StreamScorer) -> None:
        """Take one off the record."""
        ...


class ScorerStreams(Protocol):
    """What the supervisor must know of the streams."""

    def source(self, scorer: StreamScorer) -> Source:
        """A new consumer."""
        ...

    def forget(self, scorer: StreamScorer) -> None:
        """Remove a scorer's place and its memory."""
        ...


class ScoringSupervisor:
    """Has a thread at work for each scorer that is to run; each on connections of its own."""

    def __init__(self, record: ScorerRecord, streams: ScorerStreams, inference: Inference) -> None:
        self._record = record
        self._streams = streams
        self._inference = inference
        self._workers: dict[str, _Worker] = {}
        self._wakeup = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def notify(self) -> None:
        """Say that the record changed."""
        self._wakeup.set()

    def start(self) -> None:
        """Begin, on a thread of its own."""
        self._wakeup.set()
        self._thread = threading.Thread(target=self._run, name="stream-scorers", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End after the micro-batches under way, or leave them to others."""
        self._stopping.set()
        self._wakeup.set()
        if self._thread is not None:
            self._thread.join(timeout=1.0)
        for worker in self._workers.values():
            worker.ask_to_stop()
        end = time.monotonic() + 1.0
        for worker in self._workers.values():
            worker.join(max(0.0, end - time.monotonic()))

    def look(self) -> None:
        """Start and stop threads as the record wants it; raises DomainError."""
        wanted = {scorer.uid: scorer for scorer in self._record.running()}
        for uid, worker in list(self._workers.items()):
            if uid not in wanted:
                worker.ask_to_stop()
            if not worker.alive:
                del self._workers[uid]
        for uid, scorer in wanted.items():
            if uid not in self._workers:
                loop = self._loop_of(scorer)
                self._workers[uid] = _Worker(scorer.name, loop)
        for scorer in self._record.deleted():
            self._streams.forget(scorer)
            self._record.forget(scorer)

    def _loop_of(self, scorer: StreamScorer) -> Callable[[], tuple[ScoringLoop, Source]]:
        def make() -> tuple[ScoringLoop, Source]:
            source = self._streams.source(scorer)
            return ScoringLoop(scorer, source, self._inference), source

        return make

    def _run(self) -> None:
        well = True
        while not self._paused():
            try:
                self.look()
                well = True
            except DomainError as error:
                level = logging.WARNING if well else logging.DEBUG
                _log.log(level, "scorers can't be looked after", extra={"reason": error.reason})
                well = False
            except Exception:
                _log.exception("the supervisor of stream scorers stumbled")

    def _paused(self) -> bool:
        """Wait for the next look; whether it is to end."""
        # A worker that is to stop is looked for again: only then may another one begin.
        ending = any(worker.stopping for worker in self._workers.values())
        self._wakeup.wait(ENDING_S if ending else LOOK_S)
        self._wakeup.clear()
        return self._stopping.is_set()


def _tell(source: Source, reason: str) -> None:
    with suppress(DomainError):
        source.note(reason)


class _Worker:
    """A thread that works until it is told to stop."""

    def __init__(self, name: str, make: Callable[[], tuple[ScoringLoop, Source]]) -> None:
        self._name = name
        self._make = make
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"score-{name}", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether it is at work."""
        return self._thread.is_alive()

    @property
    def stopping(self) -> bool:
        """Whether it was told to stop."""
        return self._stopping.is_set()

    def ask_to_stop(self) -> None:
        """End after the micro-batch under way."""
        self._stopping.set()

    def join(self, seconds: float) -> None:
        """Wait for the end."""
        self._thread.join(seconds)

    def _run(self) -> None:
        loop, source = self._make()
        pause, well = FIRST_PAUSE_S, True
        while not self._stopping.is_set():
            try:
                loop.poll_once()
                self._stopping.wait(loop.wait_s())
                pause, well = FIRST_PAUSE_S, True
            except NotFound:
                break  # its place is gone; the supervisor knows whether it is still wanted
            except Exception as error:
                level = logging.WARNING if well else logging.DEBUG
                known = isinstance(error, DomainError)
                facts = {"scorer": self._name, "reason": getattr(error, "reason", "INTERNAL")}
                told = None if known else error
                _tell(source, facts["reason"])
                _log.log(level, "a stream can't be scored now", extra=facts, exc_info=told)
                well = False
                self._stopping.wait(pause)
                pause = min(2 * pause, LONGEST_PAUSE_S)
        source.close()
