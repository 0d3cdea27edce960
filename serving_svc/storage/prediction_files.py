"""The catalogue of the prediction log's files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, fields
from datetime import date
from typing import Any

from sqlalchemy import Engine, Select, delete, select
from sqlalchemy.orm import Session

from service_kit.database import reading, transaction
from service_kit.errors import Conflict
from serving_svc.domain.predictions import LogFile
from serving_svc.storage.tables import PredictionFileRow

_FIELDS = tuple(each.name for each in fields(LogFile))


class SqlPredictionCatalogue:
    """Which files make up the log."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def add(self, session: Session, files: Sequence[LogFile]) -> None:
        """List files within the transaction of who wrote them."""
        session.add_all(PredictionFileRow(**asdict(each)) for each in files)
        session.flush()

    def covering(self, prediction_id: str, day: date) -> Sequence[LogFile]:
        """Files whose range of ids holds an id of that day."""
        row = PredictionFileRow
        return self._select(
            row.day == day, row.min_id <= prediction_id, row.max_id >= prediction_id
        )

    def within(self, endpoint_id: str, first: str, before: str, most: int) -> Sequence[LogFile]:
        """Files of an endpoint with ids from one on and before another, furthest reaching first.

        Args:
            most: Files at most.
        """
        row = PredictionFileRow
        query = (
            select(row)
            .where(row.endpoint_id == endpoint_id, row.max_id >= first, row.min_id < before)
            .order_by(row.max_id.desc(), row.file_id)
            .limit(most)
        )
        return self._listed(query)

    def below(self, most_rows: int) -> Sequence[LogFile]:
        """Files with fewer rows than that."""
        return self._select(PredictionFileRow.rows < most_rows)

    def before(self, day: date) -> Sequence[LogFile]:
        """Files of earlier days."""
        return self._select(PredictionFileRow.day < day)

    def listed(self, file_ids: Sequence[str]) -> set[str]:
        """Those of the ids that are listed."""
        query = select(PredictionFileRow.file_id).where(PredictionFileRow.file_id.in_(file_ids))
        with reading(self._engine) as session:
            return set(session.scalars(query))

    def replace(self, old: Sequence[LogFile], new: Sequence[LogFile]) -> None:
        """Put files in the place of others, at once.

        Raises Conflict (`LOG_CHANGED`) when one of the old is listed no more.
        """
        ids = [each.file_id for each in old]
        query = delete(PredictionFileRow).where(PredictionFileRow.file_id.in_(ids))
        with transaction(self._engine) as session:
            gone: Any = session.execute(query)
            if gone.rowcount != len(ids):
                raise Conflict("LOG_CHANGED", "another process has replaced the files")
            self.add(session, new)

    def _select(self, *conditions: Any) -> Sequence[LogFile]:
        query = select(PredictionFileRow).where(*conditions).order_by(PredictionFileRow.file_id)
        return self._listed(query)

    def _listed(self, query: Select[PredictionFileRow]) -> Sequence[LogFile]:
        with reading(self._engine) as session:
            return [
                LogFile(*(getattr(row, name) for name in _FIELDS)) for row in session.scalars(query)
            ]
