"""The record of stream scorers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from datetime import timedelta
from typing import Any

from sqlalchemy import Engine, delete, func, select
from sqlalchemy.orm import Session

from service_kit.clock import Clock
from service_kit.database import reading, transaction
from service_kit.errors import AlreadyExists, NotFound, ResourceExhausted
from serving_svc.domain.scorers import MOST_SCORERS, ScorerState, Start, StreamScorer
from serving_svc.service.ports import MessageT, RequestKey
from serving_svc.storage.store import SqlUnit
from serving_svc.storage.tables import StreamScorerRow

_MS = timedelta(milliseconds=1)
_FIELDS = tuple(
    each.name for each in fields(StreamScorer) if each.name not in ("dedupe_window", "input_fields")
)
_ALIVE = ~StreamScorerRow.deleted
Place = tuple[str, str]
"""Ids of the endpoint and of the scorer."""


class SqlScorers:
    """Stream scorers by endpoint and id."""

    def __init__(self, engine: Engine, clock: Clock) -> None:
        self._engine = engine
        self._clock = clock

    def create(
        self, scorer: StreamScorer, actor: str, key: RequestKey[StreamScorer, MessageT]
    ) -> MessageT:
        """Put a new one on record, the first time that the key is seen.

        Raises NotFound, AlreadyExists (`STREAM_SCORER_EXISTS`), ResourceExhausted
        (`TOO_MANY_STREAM_SCORERS`).
        """
        with transaction(self._engine) as session:
            unit = SqlUnit(session, self._clock, locking=True)

            def build() -> StreamScorer:
                unit.endpoint(scorer.endpoint_id)
                _refuse_another(session, scorer)
                session.add(StreamScorerRow(**_values(scorer), deleted=False))
                session.flush()
                unit.announce(scorer.name, "created", actor, "")
                return scorer

            return unit.once(key, build)

    def change(
        self,
        place: Place,
        change: Callable[[StreamScorer], StreamScorer],
        action: tuple[str, str],
        key: RequestKey[StreamScorer, MessageT],
    ) -> MessageT:
        """Change one for a request; `action` is who does what. Raises NotFound."""
        actor, what = action
        with transaction(self._engine) as session:
            unit = SqlUnit(session, self._clock, locking=True)

            def build() -> StreamScorer:
                changed = change(_of(_row(session, place, locking=True)))
                session.merge(StreamScorerRow(**_values(changed), deleted=False))
                unit.announce(changed.name, what, actor, "")
                return changed

            return unit.once(key, build)

    def delete(self, place: Place, actor: str, key: RequestKey[None, MessageT]) -> MessageT:
        """Delete one; it is kept for whoever removes what it has elsewhere. Raises NotFound."""
        with transaction(self._engine) as session:
            unit = SqlUnit(session, self._clock, locking=True)

            def build() -> None:
                row = _row(session, place, locking=True)
                row.deleted = True
                unit.announce(_of(row).name, "deleted", actor, "")

            return unit.once(key, build)

    def get(self, place: Place) -> StreamScorer:
        """One; raises NotFound (`STREAM_SCORER_NOT_FOUND`)."""
        with reading(self._engine) as session:
            return _of(_row(session, place))

    def page(self, endpoint_id: str, after: str, limit: int) -> Sequence[StreamScorer]:
        """Those of an endpoint in the order of their ids; raises NotFound."""
        query = (
            select(StreamScorerRow)
            .where(StreamScorerRow.endpoint_id == endpoint_id, _ALIVE)
            .where(StreamScorerRow.scorer_id > after)
            .order_by(StreamScorerRow.scorer_id)
            .limit(limit)
        )
        with reading(self._engine) as session:
            SqlUnit(session, self._clock, locking=False).endpoint(endpoint_id)
            return [_of(row) for row in session.scalars(query)]

    def running(self) -> Sequence[StreamScorer]:
        """Those that are to run."""
        return self._all(_ALIVE, StreamScorerRow.state == str(ScorerState.RUNNING))

    def deleted(self) -> Sequence[StreamScorer]:
        """Those that are deleted and not forgotten."""
        return self._all(StreamScorerRow.deleted)

    def forget(self, scorer: StreamScorer) -> None:
        """Take a deleted one off the record."""
        with transaction(self._engine) as session:
            session.execute(delete(StreamScorerRow).where(StreamScorerRow.uid == scorer.uid))

    def _all(self, *conditions: Any) -> Sequence[StreamScorer]:
        query = select(StreamScorerRow).where(*conditions).order_by(StreamScorerRow.uid)
        with reading(self._engine) as session:
            return [_of(row) for row in session.scalars(query)]


def _refuse_another(session: Session, scorer: StreamScorer) -> None:
    same = (scorer.endpoint_id, scorer.scorer_id)
    if session.scalar(_query(same)) is not None:
        raise AlreadyExists(
            "STREAM_SCORER_EXISTS", "a stream scorer of that id exists", field="stream_scorer_id"
        )
    count = session.scalar(select(func.count()).select_from(StreamScorerRow).where(_ALIVE)) or 0
    if count >= MOST_SCORERS:
        raise ResourceExhausted(
            "TOO_MANY_STREAM_SCORERS", f"a suite has {MOST_SCORERS} stream scorers at most"
        )


def _query(place: Place) -> Any:
    endpoint_id, scorer_id = place
    return select(StreamScorerRow).where(
        StreamScorerRow.endpoint_id == endpoint_id, StreamScorerRow.scorer_id == scorer_id, _ALIVE
    )


def _row(session: Session, place: Place, *, locking: bool = False) -> StreamScorerRow:
    query = _query(place)
    row: StreamScorerRow | None = session.scalar(query.with_for_update() if locking else query)
    if row is None:
        raise NotFound("STREAM_SCORER_NOT_FOUND", "there is no such stream scorer", field="name")
    return row


def _values(scorer: StreamScorer) -> dict[str, Any]:
    values = {name: getattr(scorer, name) for name in _FIELDS}
    return values | {
        "input_fields": dict(scorer.input_fields),
        "dedupe_window_ms": scorer.dedupe_window // _MS,
        "start": str(scorer.start),
        "state": str(scorer.state),
    }


def _of(row: StreamScorerRow) -> StreamScorer:
    values = {name: getattr(row, name) for name in _FIELDS}
    values["start"] = Start(row.start)
    values["state"] = ScorerState(row.state)
    return StreamScorer(
        **values,
        input_fields=dict(row.input_fields),
        dedupe_window=row.dedupe_window_ms * _MS,
    )
