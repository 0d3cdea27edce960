"""Use cases of the prediction log: look a prediction up, and keep the log in good order."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Protocol

from service_kit.clock import Clock
from service_kit.errors import Conflict, DomainError, InvalidArgument, NotFound, Unavailable
from serving_svc.domain.predictions import (
    MOST_ROWS,
    STANDS_IN,
    LogFile,
    LoggedRow,
    asked_at,
    to_merge,
)

#: A prediction younger than this may still be on its way: in the gateway, or with a process of
#: serving that has ended and whose events another one has yet to take over.
ON_ITS_WAY = timedelta(seconds=60)
#: A prediction younger than this the gateway may not have sent: it is looked for a few times.
JUST_ASKED = timedelta(seconds=2)
LOOKS, LOOK_S = 10, 0.1
#: How long a lookup waits for the log to take in what the stream holds.
CATCH_UP_S = 2.0
#: Files that no catalogue lists are left alone so long: somebody may be writing them.
ORPHAN_AGE = timedelta(hours=1)
_TRIES = 3
_CHUNK = 500
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Lineage:
    """What a version was made of.

    Attributes:
        nodes: Names of resources and their kinds.
        edges: Pairs of names: from the first the second was made.
    """

    nodes: Sequence[tuple[str, str]] = ()
    edges: Sequence[tuple[str, str]] = ()


class Lineages(Protocol):
    """Where lineage is on record."""

    def lineage(self, version: str) -> Lineage:
        """The lineage of a version; raises what the registry raises."""
        ...


class Catalogue(Protocol):
    """Which files make up the log."""

    def covering(self, prediction_id: str, day: date) -> Sequence[LogFile]: ...

    def below(self, most_rows: int) -> Sequence[LogFile]: ...

    def before(self, day: date) -> Sequence[LogFile]: ...

    def listed(self, file_ids: Sequence[str]) -> set[str]: ...

    def replace(self, old: Sequence[LogFile], new: Sequence[LogFile]) -> None: ...


class Files(Protocol):
    """The files themselves."""

    def find(self, file: LogFile, prediction_id: str) -> list[LoggedRow]: ...

    def merge(self, files: Sequence[LogFile]) -> LogFile: ...

    def remove(self, files: Iterable[LogFile]) -> None: ...

    def older_than(self, age: timedelta) -> Mapping[str, Path]: ...


@dataclass(frozen=True, slots=True)
class PredictionView:
    """A prediction with all that is known of it.

    Attributes:
        shadows: What other versions answered to the same row.
        lineage: Of the version that answered.
        lineage_missing: Reason why there is none.
    """

    row: LoggedRow
    asked: datetime
    shadows: Sequence[LoggedRow]
    lineage: Lineage
    lineage_missing: str


class PredictionLog:
    """Answers what became of a prediction.

    Args:
        catch_up: Has the log take in what its stream holds and waits for that, up to so many
            seconds; says whether it is done.
        keep: How long predictions are kept.
        pause: Waits so many seconds.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        files: Files,
        lineages: Lineages,
        clock: Clock,
        catch_up: Callable[[float], bool],
        keep: timedelta,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._catalogue = catalogue
        self._files = files
        self._lineages = lineages
        self._clock = clock
        self._catch_up = catch_up
        self._keep = keep
        self._pause = pause

    def get_prediction(self, prediction_id: str) -> PredictionView:
        """A prediction.

        Raises InvalidArgument (`INVALID_PREDICTION_ID`), NotFound (`PREDICTION_NOT_LOGGED_YET`
        with `retry_after_s`, `PREDICTION_EXPIRED`, `PREDICTION_NOT_FOUND`).
        """
        try:
            asked = asked_at(prediction_id)
        except ValueError as error:
            raise InvalidArgument(
                "INVALID_PREDICTION_ID", "must be the id of a prediction", field="name"
            ) from error
        rows, current = self._rows(prediction_id, asked)
        primary = _primary(rows)
        if primary is None:
            raise self._missing(asked, current)
        if primary.fallback in STANDS_IN:
            # It is logged under the version that was to answer, and did not.
            primary = replace(primary, variant="", model_version="")
        lineage, missing = self._lineage(primary.model_version)
        shadows = [row for row in rows if row.shadow]
        return PredictionView(primary, asked, shadows, lineage, missing)

    def _rows(self, prediction_id: str, asked: datetime) -> tuple[list[LoggedRow], bool]:
        """The rows of an id, and whether the log holds all that its stream did."""
        rows, current = self._look(prediction_id, asked), True
        for _ in range(1 + LOOKS):
            if _primary(rows) is not None:
                break
            current = self._catch_up(CATCH_UP_S)
            rows = self._look(prediction_id, asked)
            if not current or abs(self._clock.now() - asked) > JUST_ASKED:
                break
            if _primary(rows) is None:
                self._pause(LOOK_S)
        return rows, current

    def _look(self, prediction_id: str, asked: datetime) -> list[LoggedRow]:
        for _ in range(_TRIES):
            listed = self._catalogue.covering(prediction_id, asked.date())
            try:
                return _once_each(
                    row for file in listed for row in self._files.find(file, prediction_id)
                )
            except FileNotFoundError:
                # It was merged with others since it was listed.
                continue
        raise Unavailable("LOG_INCOMPLETE", "a file of the prediction log can't be read")

    def _missing(self, asked: datetime, current: bool) -> NotFound:
        age = self._clock.now() - asked
        if age > self._keep:
            return NotFound(
                "PREDICTION_EXPIRED", "predictions as old are no longer kept", field="name"
            )
        if abs(age) < ON_ITS_WAY or not current:
            return NotFound(
                "PREDICTION_NOT_LOGGED_YET",
                "the prediction is not in the log yet; ask again in a few seconds",
                field="name",
                retry_after_s="2",
            )
        return NotFound("PREDICTION_NOT_FOUND", "no such prediction was logged", field="name")

    def _lineage(self, version: str) -> tuple[Lineage, str]:
        if not version:
            return Lineage(), "NO_MODEL_ANSWERED"
        try:
            return self._lineages.lineage(version), ""
        except DomainError as error:
            return Lineage(), error.reason


class LogCare:
    """Merges small files, forgets old days and removes what no catalogue lists."""

    def __init__(self, catalogue: Catalogue, files: Files, clock: Clock, keep: timedelta) -> None:
        self._catalogue = catalogue
        self._files = files
        self._clock = clock
        self._keep = keep

    def merge(self) -> int:
        """Make many small files into few; gives the number of files replaced."""
        today = self._clock.now().date()
        replaced = 0
        for group in to_merge(self._catalogue.below(MOST_ROWS), today):
            merged = self._files.merge(group)
            try:
                self._catalogue.replace(group, [merged])
            except Conflict:
                self._files.remove([merged])
                continue
            self._files.remove(group)
            replaced += len(group)
        return replaced

    def forget(self) -> int:
        """Remove days that are older than predictions are kept; gives the number of files."""
        oldest = (self._clock.now() - self._keep).date()
        old = self._catalogue.before(oldest)
        for start in range(0, len(old), _CHUNK):
            part = old[start : start + _CHUNK]
            self._catalogue.replace(part, [])
            self._files.remove(part)
        return len(old)

    def tidy(self, age: timedelta = ORPHAN_AGE) -> int:
        """Remove files that an interrupted write or merge left; gives their number."""
        found = self._files.older_than(age)
        names = list(found)
        orphans: list[Path] = []
        for start in range(0, len(names), _CHUNK):
            part = names[start : start + _CHUNK]
            listed = self._catalogue.listed(part)
            orphans += [found[name] for name in part if name not in listed]
        for path in orphans:
            path.unlink(missing_ok=True)
        if orphans:
            _log.info("files that nobody lists were removed", extra={"files": len(orphans)})
        return len(orphans)


def _primary(rows: Iterable[LoggedRow]) -> LoggedRow | None:
    return next((row for row in rows if not row.shadow), None)


def _once_each(rows: Iterable[LoggedRow]) -> list[LoggedRow]:
    found: dict[tuple[bool, str, str], LoggedRow] = {}
    for row in rows:
        found.setdefault((row.shadow, row.variant, row.model_version), row)
    return list(found.values())
