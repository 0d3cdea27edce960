"""Use cases about stream scorers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Protocol

from service_kit.clock import Clock
from service_kit.errors import DomainError
from service_kit.ids import uuid7_str
from service_kit.paging import Page
from serving_svc.domain.scorers import Progress, ScorerState, StreamScorer, checked
from serving_svc.service.ports import MessageT, RequestKey

_log = logging.getLogger(__name__)


class Scorers(Protocol):
    """The record."""

    def create(
        self, scorer: StreamScorer, actor: str, key: RequestKey[StreamScorer, MessageT]
    ) -> MessageT: ...

    def change(
        self,
        place: tuple[str, str],
        change: Callable[[StreamScorer], StreamScorer],
        action: tuple[str, str],
        key: RequestKey[StreamScorer, MessageT],
    ) -> MessageT: ...

    def delete(
        self, place: tuple[str, str], actor: str, key: RequestKey[None, MessageT]
    ) -> MessageT: ...

    def get(self, place: tuple[str, str]) -> StreamScorer: ...

    def page(self, endpoint_id: str, after: str, limit: int) -> Sequence[StreamScorer]: ...


class Streams(Protocol):
    """The streams of events."""

    def open(self, scorer: StreamScorer) -> None:
        """Make a scorer's place in its source, where it begins, unless it has one."""
        ...

    def progress(self, scorer: StreamScorer) -> Progress:
        """How far a scorer is."""
        ...


class ScorerService:
    """Creates, shows, holds and deletes stream scorers.

    Args:
        wake: Told that the record changed.
    """

    def __init__(
        self,
        scorers: Scorers,
        streams: Streams,
        clock: Clock,
        wake: Callable[[], None] = lambda: None,
    ) -> None:
        self._scorers = scorers
        self._streams = streams
        self._clock = clock
        self._wake = wake

    def create(self, asked: StreamScorer, key: RequestKey[StreamScorer, MessageT]) -> MessageT:
        """Create one that runs.

        Raises InvalidArgument, NotFound (`ENDPOINT_NOT_FOUND`), AlreadyExists
        (`STREAM_SCORER_EXISTS`), ResourceExhausted (`TOO_MANY_STREAM_SCORERS`).
        """
        wanted = replace(checked(asked), uid=uuid7_str(), created=self._clock.now())
        answer = self._scorers.create(wanted, asked.creator, key)
        try:
            kept = self._scorers.get((wanted.endpoint_id, wanted.scorer_id))
            self._streams.open(kept)
        except DomainError as error:
            # Whoever works for it does this as well.
            _log.warning("a scorer's group waits to be made", extra={"reason": error.reason})
        self._wake()
        return answer

    def get(self, place: tuple[str, str]) -> StreamScorer:
        """One by endpoint and id; raises NotFound (`STREAM_SCORER_NOT_FOUND`)."""
        return self._scorers.get(place)

    def page(self, endpoint_id: str, page: Page) -> tuple[list[StreamScorer], str]:
        """Those of an endpoint by id, and where the next page begins; raises NotFound."""
        found = self._scorers.page(endpoint_id, page.offset_token, page.size + 1)
        shown = list(found[: page.size])
        return shown, shown[-1].scorer_id if len(found) > page.size else ""

    def progress(self, scorers: Sequence[StreamScorer]) -> list[Progress | None]:
        """How far each is; nothing while the streams do not answer."""
        found: list[Progress | None] = []
        with suppress(DomainError):
            # One that does not answer is not waited for again.
            found.extend(self._streams.progress(each) for each in scorers)
        return found + [None] * (len(scorers) - len(found))

    def pause(
        self, place: tuple[str, str], actor: str, key: RequestKey[StreamScorer, MessageT]
    ) -> MessageT:
        """Hold one; raises NotFound."""
        return self._set(place, ScorerState.PAUSED, (actor, "paused"), key)

    def resume(
        self, place: tuple[str, str], actor: str, key: RequestKey[StreamScorer, MessageT]
    ) -> MessageT:
        """Let one go on; raises NotFound."""
        return self._set(place, ScorerState.RUNNING, (actor, "resumed"), key)

    def delete(
        self, place: tuple[str, str], actor: str, key: RequestKey[None, MessageT]
    ) -> MessageT:
        """Delete one; raises NotFound."""
        answer = self._scorers.delete(place, actor, key)
        self._wake()
        return answer

    def _set(
        self,
        place: tuple[str, str],
        state: ScorerState,
        action: tuple[str, str],
        key: RequestKey[StreamScorer, MessageT],
    ) -> MessageT:
        answer = self._scorers.change(place, lambda each: replace(each, state=state), action, key)
        self._wake()
        return answer
