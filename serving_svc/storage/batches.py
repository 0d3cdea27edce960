"""The record of batch predictions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from typing import Any, cast

from google.protobuf.message import Message
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from service_kit.database import reading, transaction
from service_kit.errors import NotFound
from service_kit.idempotency import once
from serving_svc.domain.batches import ENDED, Batch, BatchState, Features, Format
from serving_svc.service.ports import AnswerT, MessageT, RequestKey
from serving_svc.storage.tables import IDEMPOTENCY, BatchRow

_FIELDS = tuple(each.name for each in fields(Batch))
_ENDED = [str(state) for state in ENDED]


class SqlBatches:
    """Batch predictions by id."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def create(self, key: RequestKey[Batch, MessageT], build: Callable[[], Batch]) -> MessageT:
        """Put a new one on record, the first time that the key is seen."""
        with transaction(self._engine) as session:

            def add() -> Batch:
                batch = build()
                session.add(BatchRow(**_values(batch)))
                session.flush()
                return batch

            return _once(session, key, add)

    def change(self, batch_id: str, change: Callable[[Batch], Batch]) -> Batch:
        """Change one; changes of one come one after the other. Raises NotFound."""
        with transaction(self._engine) as session:
            return _changed(session, batch_id, change)

    def change_once(
        self, batch_id: str, change: Callable[[Batch], Batch], key: RequestKey[Batch, MessageT]
    ) -> MessageT:
        """The same for a request, the first time that its key is seen."""
        with transaction(self._engine) as session:
            return _once(session, key, lambda: _changed(session, batch_id, change))

    def get(self, batch_id: str) -> Batch:
        """One; raises NotFound (`BATCH_PREDICTION_NOT_FOUND`)."""
        with reading(self._engine) as session:
            return _batch(session, batch_id)

    def page(self, before: str, limit: int) -> Sequence[Batch]:
        """Those older than `before`, newest first."""
        query = select(BatchRow).order_by(BatchRow.batch_id.desc()).limit(limit)
        if before:
            query = query.where(BatchRow.batch_id < before)
        with reading(self._engine) as session:
            return [_of(row) for row in session.scalars(query)]

    def under_way(self) -> Sequence[Batch]:
        """Those that have not ended."""
        query = select(BatchRow).where(BatchRow.state.not_in(_ENDED))
        with reading(self._engine) as session:
            return [_of(row) for row in session.scalars(query)]


def _changed(session: Session, batch_id: str, change: Callable[[Batch], Batch]) -> Batch:
    changed = change(_batch(session, batch_id, locking=True))
    session.merge(BatchRow(**_values(changed)))
    session.flush()
    return changed


def _batch(session: Session, batch_id: str, *, locking: bool = False) -> Batch:
    query = select(BatchRow).where(BatchRow.batch_id == batch_id)
    row = session.scalar(query.with_for_update() if locking else query)
    if row is None:
        raise NotFound(
            "BATCH_PREDICTION_NOT_FOUND", "there is no such batch prediction", field="name"
        )
    return _of(row)


def _once(
    session: Session, key: RequestKey[AnswerT, MessageT], build: Callable[[], AnswerT]
) -> MessageT:
    answer = once(
        session,
        IDEMPOTENCY,
        method=key.method,
        request_id=key.request_id,
        fingerprint=key.fingerprint,
        build=lambda: cast("Message", key.encode(build())),
        parse=lambda kept: cast("Message", key.parse(kept)),
    )
    return cast("MessageT", answer)


def _values(batch: Batch) -> dict[str, Any]:
    return asdict(batch) | {
        "format": str(batch.format),
        "features": str(batch.features),
        "state": str(batch.state),
    }


def _of(row: BatchRow) -> Batch:
    values = {name: getattr(row, name) for name in _FIELDS}
    values["format"] = Format(row.format)
    values["features"] = Features(row.features)
    values["state"] = BatchState(row.state)
    return Batch(**values)
