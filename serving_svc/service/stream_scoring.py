"""The work of stream scorers: read, ask, and finish in one atomic step."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from service_kit import metrics
from service_kit.errors import DomainError
from serving_svc.domain.scorer_events import (
    Answer,
    Ending,
    Entry,
    Event,
    Fate,
    Kind,
    Prediction,
    Problem,
    calls,
    dead_letter_of,
    read_event,
    repeat_of,
    result_of,
)
from serving_svc.domain.scorers import StreamScorer

#: Longest wait for events in one read, in seconds.
BLOCK_S = 0.5
#: Pauses before something is tried again, in seconds: the first, doubled up to the longest.
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.25, 5.0
#: How often an event is tried that fails where others do not.
TRIES = 8
_LATE = "DEADLINE_EXCEEDED"

_events = metrics.counter(
    "stream_scorer_events_total", "Events finished.", ("endpoint", "scorer", "kind")
)
_held = metrics.gauge(
    "stream_scorer_held", "Events that this process has read and not finished.",
    ("endpoint", "scorer"),
)  # fmt: skip


class Source(Protocol):
    """A scorer's source, as one consumer of its group sees it."""

    def read(self, count: int, block: float) -> Sequence[Entry]:
        """Entries that nobody of the group has read, waiting `block` seconds at most."""
        ...

    def own(self, count: int) -> Sequence[Entry]:
        """Entries that this consumer has read and not finished, oldest first."""
        ...

    def claim(self, count: int) -> Sequence[Entry]:
        """Entries taken over of consumers that have left them lying."""
        ...

    def answered(self, event_ids: Sequence[str]) -> set[str]:
        """Those ids that have a result."""
        ...

    def finish(self, endings: Sequence[Ending]) -> dict[Kind, int]:
        """End events, each in one atomic step; gives how many ended in each way.

        One that somebody else has finished, or whose id has a result by now, gets none.
        """
        ...

    def note(self, reason: str) -> None:
        """Remember why events wait."""
        ...

    def close(self) -> None:
        """Leave the group, unless something is unfinished."""
        ...


class Inference(Protocol):
    """The endpoint."""

    def score(self, endpoint_id: str, events: Sequence[Event]) -> Sequence[Answer]:
        """One answer an event; raises DomainError when there is none for any."""
        ...


@dataclass(slots=True)
class _Batch:
    """A micro-batch under way.

    Attributes:
        problems: Events that were asked for and not answered.
        waiting: Entries that are left for another time.
        scored: Whether any event was answered.
        trouble: Why some have to wait; empty when none has.
    """

    endings: list[Ending] = field(default_factory=list)
    problems: list[tuple[Entry, Problem]] = field(default_factory=list)
    waiting: list[Entry] = field(default_factory=list)
    scored: bool = False
    trouble: str = ""


class ScoringLoop:
    """Scores the events of one scorer, a micro-batch at a time.

    What is not finished stays with this consumer, in Redis and up to one micro-batch in all, and
    is read from there again; nothing is kept here but how often an event has failed. So any end
    of the process leaves each event either finished or to whoever claims it.
    """

    def __init__(self, scorer: StreamScorer, source: Source, inference: Inference) -> None:
        self._scorer = scorer
        self._source = source
        self._inference = inference
        self._open: set[str] = set()
        self._sure = False
        self._failures: dict[str, int] = {}
        self._again_at = 0.0
        self._pauses = 0

    def poll_once(self, block: float = BLOCK_S) -> int:
        """Work on one micro-batch; gives how many events were finished.

        Raises DomainError when the streams do not answer.
        """
        sure, self._sure = self._sure, False
        entries = self._next(block, sure=sure)
        batch = self._work_on(entries)
        done = self._source.finish(batch.endings) if batch.endings else {}
        self._settle(entries, batch)
        self._measure(done)
        self._sure = True
        return len(batch.endings)

    def wait_s(self) -> float:
        """Seconds until there is something to do again, when nothing may be read until then."""
        return max(0.0, self._again_at - time.monotonic()) if self._held_back else 0.0

    @property
    def _held_back(self) -> bool:
        return self._pauses > 0 or len(self._open) >= self._scorer.max_rows

    def _next(self, block: float, *, sure: bool) -> list[Entry]:
        most, left = self._scorer.max_rows, self._again_at - time.monotonic()
        entries: list[Entry] = []
        if not sure or (self._open and left <= 0):
            # Those that somebody else has claimed meanwhile are no longer ours.
            entries = list(self._source.own(most))
            self._open = {entry.entry_id for entry in entries}
        elif self._open and self._held_back:
            return []
        elif not self._open:
            entries = list(self._source.claim(most))
        elif left < block:
            block = left
        room = most - max(len(entries), len(self._open))
        if room > 0:
            entries += self._source.read(room, 0.0 if entries else block)
        return entries

    def _work_on(self, entries: Sequence[Entry]) -> _Batch:
        batch = _Batch()
        events: dict[str, Event] = {}
        for entry in entries:
            event = read_event(self._scorer.uid, entry, self._scorer.input_fields)
            if isinstance(event, Problem):
                batch.endings.append(dead_letter_of(entry, event))
            elif event.event_id in events:
                batch.waiting.append(entry)  # a repeat, once the first one is finished
            else:
                events[event.event_id] = event
        for known in self._source.answered(list(events)) if events else ():
            batch.endings.append(repeat_of(events.pop(known)))
        for part in calls(list(events.values())):
            self._ask(part, batch)
        self._judge(batch)
        if batch.trouble:
            self._source.note(batch.trouble)
        return batch

    def _ask(self, events: Sequence[Event], batch: _Batch) -> None:
        endpoint = f"endpoints/{self._scorer.endpoint_id}"
        try:
            answers = self._inference.score(self._scorer.endpoint_id, events)
        except DomainError as error:
            batch.waiting += [event.entry for event in events]
            batch.trouble = error.reason
            return
        for event, answer in zip(events, answers, strict=True):
            if isinstance(answer, Prediction):
                batch.endings.append(result_of(event, endpoint, answer))
                batch.scored = True
            else:
                batch.problems.append((event.entry, answer))

    def _judge(self, batch: _Batch) -> None:
        """Which problems are those of the events, and which of them have been tried enough.

        That there was no answer in time is an event's own fault only when others had theirs.
        """
        for entry, problem in batch.problems:
            tries = self._failures.get(entry.entry_id, 0)
            late = problem.reason == _LATE and batch.scored
            tries += late or problem.fate is Fate.FAILED
            if problem.fate is Fate.REFUSED or tries >= TRIES:
                batch.endings.append(dead_letter_of(entry, problem))
            else:
                self._failures[entry.entry_id] = tries
                batch.waiting.append(entry)
                batch.trouble = problem.reason

    def _settle(self, entries: Sequence[Entry], batch: _Batch) -> None:
        ended = {ending.entry_id for ending in batch.endings}
        self._open = (self._open | {entry.entry_id for entry in entries}) - ended
        self._failures = {key: n for key, n in self._failures.items() if key in self._open}
        if not entries:
            return
        self._pauses = self._pauses + 1 if batch.trouble and not batch.scored else 0
        tries = max([self._pauses, *self._failures.values()])
        pause = min(FIRST_PAUSE_S * 2 ** max(0, tries - 1), LONGEST_PAUSE_S) if batch.trouble else 0
        # Spread, so that consumers that failed together don't come back together.
        self._again_at = time.monotonic() + pause * random.uniform(0.75, 1.0)  # noqa: S311

    def _measure(self, done: dict[Kind, int]) -> None:
        labels = (self._scorer.endpoint_id, self._scorer.scorer_id)
        for kind, count in done.items():
            _events.labels(*labels, str(kind)).inc(count)
        _held.labels(*labels).set(len(self._open))
