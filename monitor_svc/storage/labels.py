"""Rows of predictions, outcomes and quality."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from sqlalchemy import Row, delete, exists, select
from sqlalchemy.orm import Session

from monitor_svc.domain.monitors import Monitor
from monitor_svc.domain.performance import QualitySketch
from monitor_svc.events import outcome_batch
from monitor_svc.service.ports import OutcomeRow, PredictionKey, QualityKey
from monitor_svc.storage import codec
from monitor_svc.storage.sql import insert_new, is_one_of, upsert
from monitor_svc.storage.tables import outbox, outcomes, predictions, quality
from service_kit.outbox import publish


class LabelRows:
    """Implements `LabelStore` in a session."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def known_predictions(self, ids: Sequence[str]) -> set[tuple[str, str, bool]]:
        """Id, version and role of those predictions that are stored."""
        table = predictions
        query = select(table.c.prediction_id, table.c.model_version, table.c.shadow)
        query = query.where(is_one_of(self._session, table.c.prediction_id, ids))
        return {(row[0], row[1], row[2]) for row in self._session.execute(query)}

    def add_predictions(self, rows: Sequence[PredictionKey]) -> None:
        """Insert predictions."""
        insert_new(
            self._session,
            predictions,
            [
                {
                    "prediction_id": row.id,
                    "model_version": row.model_version,
                    "shadow": row.shadow,
                    "endpoint": row.endpoint,
                    "event_us": row.event_us,
                    "score": row.score,
                }
                for row in rows
            ],
        )

    def predictions(self, ids: Sequence[str]) -> list[PredictionKey]:
        """All predictions with these ids, of every version."""
        query = select(predictions).where(
            is_one_of(self._session, predictions.c.prediction_id, ids)
        )
        return [
            PredictionKey(row[0], row[1], row[2], row[3], row[4], row[5])
            for row in self._session.execute(query)
        ]

    def outcomes(self, metric: str, ids: Sequence[str]) -> dict[str, OutcomeRow]:
        """The outcomes of some predictions, by prediction id."""
        query = select(outcomes.c.prediction_id, outcomes.c.value, outcomes.c.event_us).where(
            outcomes.c.metric == metric, is_one_of(self._session, outcomes.c.prediction_id, ids)
        )
        return {row[0]: OutcomeRow(row[0], row[1], row[2]) for row in self._session.execute(query)}

    def save_outcomes(self, metric: str, rows: Sequence[OutcomeRow], arrived: datetime) -> None:
        """Insert or replace what arrived at a moment of the wall clock."""
        upsert(
            self._session,
            outcomes,
            [
                {
                    "metric": metric,
                    "prediction_id": row.prediction_id,
                    "value": row.value,
                    "event_us": row.event_us,
                    "arrived": arrived,
                }
                for row in rows
            ],
        )

    def qualities(self, keys: Sequence[QualityKey]) -> dict[QualityKey, QualitySketch]:
        """Quality sketches by key, as far as they exist."""
        if not keys:
            return {}
        wanted = set(keys)
        query = select(quality).where(
            quality.c.monitor.in_({key.monitor for key in keys}),
            quality.c.start_us.in_({key.start_us for key in keys}),
        )
        rows = ((_key(row), row.sketch) for row in self._session.execute(query))
        return {key: codec.load_quality(bytes(sketch)) for key, sketch in rows if key in wanted}

    def answered(self, monitor: Monitor, start_us: int) -> dict[str, int]:
        """Predictions of a window whose answers went to a caller, by version."""
        query = select(quality.c.model_version, quality.c.sketch).where(
            quality.c.monitor == monitor.id,
            quality.c.window_us == monitor.window_us,
            quality.c.start_us == start_us,
            ~quality.c.shadow,
        )
        rows = self._session.execute(query)
        return {row[0]: codec.load_quality(bytes(row[1])).rows for row in rows}

    def quality_of(self, monitor: Monitor) -> dict[QualityKey, QualitySketch]:
        """All quality sketches of a monitor with its present window length."""
        query = select(quality).where(
            quality.c.monitor == monitor.id, quality.c.window_us == monitor.window_us
        )
        rows = self._session.execute(query)
        return {_key(row): codec.load_quality(bytes(row.sketch)) for row in rows}

    def save_qualities(self, sketches: Mapping[QualityKey, QualitySketch]) -> None:
        """Insert or replace."""
        upsert(
            self._session,
            quality,
            [
                {
                    "monitor": key.monitor,
                    "window_us": key.window_us,
                    "start_us": key.start_us,
                    "model_version": key.model_version,
                    "shadow": key.shadow,
                    "sketch": codec.dump_quality(sketch),
                }
                for key, sketch in sketches.items()
            ],
        )

    def publish_outcomes(self, metric: str, rows: Sequence[OutcomeRow]) -> None:
        """Send outcomes to the stream with this transaction."""
        publish(self._session, outbox, "outcomes", metric, outcome_batch(metric, rows))

    def forget_labels_before(self, endpoint: str, before_us: int, limit: int) -> int:
        """Delete the oldest predictions of an endpoint with their outcomes; gives their number."""
        query = (
            select(predictions.c.prediction_id)
            .where(predictions.c.endpoint == endpoint, predictions.c.event_us < before_us)
            .limit(limit)
        )
        ids = list(self._session.scalars(query))
        if ids:
            for table in (outcomes, predictions):
                chosen = is_one_of(self._session, table.c.prediction_id, ids)
                self._session.execute(delete(table).where(chosen))
        return len(ids)

    def forget_lone_outcomes(self, before: datetime, limit: int) -> int:
        """Delete outcomes that arrived before and whose predictions nobody monitors; counts them.

        One may come before its prediction, but not by as long as predictions are kept.
        """
        known = exists().where(predictions.c.prediction_id == outcomes.c.prediction_id)
        query = (
            select(outcomes.c.prediction_id)
            .where(outcomes.c.arrived < before, ~known)
            .distinct()
            .limit(limit)
        )
        ids = list(self._session.scalars(query))
        if ids:
            chosen = is_one_of(self._session, outcomes.c.prediction_id, ids)
            self._session.execute(delete(outcomes).where(chosen))
        return len(ids)


def _key(row: Row[tuple[object, ...]]) -> QualityKey:
    return QualityKey(row.monitor, row.window_us, row.start_us, row.model_version, row.shadow)
