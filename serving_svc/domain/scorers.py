"""Stream scorers: what may be asked for, and what one works on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum

from service_kit.errors import InvalidArgument
from service_kit.names import check_id

#: Stream scorers of a suite: each has a thread in every process of serving.
MOST_SCORERS = 64
DEFAULT_ROWS, MOST_ROWS = 128, 1_024
DEFAULT_WINDOW, LONGEST_WINDOW = timedelta(days=1), timedelta(days=30)
DEFAULT_IDS, MOST_IDS = 1_000_000, 10_000_000
DEFAULT_RESULTS, MOST_RESULTS = 200_000, 10_000_000
_LEAST_WINDOW = timedelta(milliseconds=1)
_MOST_FIELDS = 1_024
_MOST_TEXT = 512
_PREFIX = "stream_scorer."


class ScorerState(StrEnum):
    """Whether events are scored."""

    RUNNING = "RUNNING"
    PAUSED = "PAUSED"


class Start(StrEnum):
    """Where to begin in a stream."""

    UNSPECIFIED = "UNSPECIFIED"
    EARLIEST = "EARLIEST"
    LATEST = "LATEST"


@dataclass(frozen=True, slots=True)
class StreamScorer:
    """The scoring of the events of one stream.

    Attributes:
        uid: UUIDv7 of this creation; another one of the same name has another.
        source: Id of the stream of events.
        results: Id of the stream of results.
        dead_letters: Id of the stream of events that can't be scored.
        input_fields: JSON pointers into an event's data by input; empty when that is the instance.
        max_rows: Most events of a micro-batch.
        dedupe_window: How long ids of answered events are remembered.
        dedupe_limit: How many of them.
        result_limit: Results, and dead letters, that are kept.
    """

    uid: str
    endpoint_id: str
    scorer_id: str
    source: str
    created: datetime
    results: str = ""
    dead_letters: str = ""
    input_fields: Mapping[str, str] = field(default_factory=dict)
    max_rows: int = 0
    start: Start = Start.UNSPECIFIED
    dedupe_window: timedelta = timedelta(0)
    dedupe_limit: int = 0
    result_limit: int = 0
    state: ScorerState = ScorerState.RUNNING
    creator: str = ""

    @property
    def name(self) -> str:
        """`endpoints/{endpoint}/streamScorers/{stream_scorer}`."""
        return f"endpoints/{self.endpoint_id}/streamScorers/{self.scorer_id}"

    @property
    def group(self) -> str:
        """Its consumer group: no other scorer has it, not even a later one of its name."""
        return f"scorer-{self.uid}"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a scorer is, in events.

    Attributes:
        repeated: Events whose id had a result already.
        pending: Read and not finished.
        lag: Not read yet; nothing where that is not known.
        last_error: Why events waited when they last did.
    """

    scored: int
    refused: int
    repeated: int
    pending: int
    lag: int | None
    last_error: str
    last_error_time: datetime | None

    @property
    def read(self) -> int:
        """Events read."""
        return self.scored + self.refused + self.repeated + self.pending


def checked(asked: StreamScorer) -> StreamScorer:
    """A scorer with its defaults filled in; raises InvalidArgument that names the field."""
    check_id(asked.scorer_id, "stream_scorer_id")
    stem = f"{asked.endpoint_id}.{asked.scorer_id}"
    names = {
        "source_stream": check_id(asked.source, f"{_PREFIX}source_stream"),
        "result_stream": _stream(asked.results, f"{stem}.results", "result_stream"),
        "dead_letter_stream": _stream(asked.dead_letters, f"{stem}.dead", "dead_letter_stream"),
    }
    seen: set[str] = set()
    for where, stream in names.items():
        if stream in seen:
            raise _wrong("STREAM_TWICE", "is another stream of this scorer", where)
        seen.add(stream)
    _check_fields(asked.input_fields)
    window = asked.dedupe_window or DEFAULT_WINDOW
    if not _LEAST_WINDOW <= window <= LONGEST_WINDOW:
        raise _wrong("OUT_OF_RANGE", f"must be up to {LONGEST_WINDOW.days} days", "dedupe_window")
    return replace(
        asked,
        results=names["result_stream"],
        dead_letters=names["dead_letter_stream"],
        start=Start.LATEST if asked.start is Start.LATEST else Start.EARLIEST,
        max_rows=_bounded(asked.max_rows, DEFAULT_ROWS, MOST_ROWS, "max_batch_rows"),
        dedupe_window=window,
        dedupe_limit=_bounded(asked.dedupe_limit, DEFAULT_IDS, MOST_IDS, "dedupe_limit"),
        result_limit=_bounded(asked.result_limit, DEFAULT_RESULTS, MOST_RESULTS, "result_limit"),
    )


def _check_fields(fields: Mapping[str, str]) -> None:
    if len(fields) > _MOST_FIELDS:
        raise _wrong("OUT_OF_RANGE", f"must be {_MOST_FIELDS} at most", "input_fields")
    for name, pointer in fields.items():
        if not name or max(len(name), len(pointer)) > _MOST_TEXT:
            raise _wrong("OUT_OF_RANGE", "a name is empty or too long", "input_fields")
        if not pointer.startswith("/"):
            raise _wrong("INVALID_FORMAT", "must be JSON pointers, as in /a/b", "input_fields")


def _stream(given: str, default: str, where: str) -> str:
    return check_id(given, _PREFIX + where) if given else default


def _bounded(given: int, default: int, most: int, where: str) -> int:
    if not 0 <= given <= most:
        raise _wrong("OUT_OF_RANGE", f"must be {most} at most", where)
    return given or default


def _wrong(reason: str, message: str, where: str) -> InvalidArgument:
    return InvalidArgument(reason, message, field=_PREFIX + where)
