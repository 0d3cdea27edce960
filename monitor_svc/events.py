"""Stream payloads to domain and back."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from google.protobuf.timestamp_pb2 import Timestamp
from modelyard.events.v1 import events_pb2

from monitor_svc.domain.alerts import Alert
from monitor_svc.rows import from_log
from monitor_svc.service.ports import OutcomeRow, PredictionRows

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def moment(time_us: int) -> datetime:
    """A moment of microseconds since the Unix epoch."""
    return _EPOCH + timedelta(microseconds=time_us)


def timestamp(time_us: int) -> Timestamp:
    """The same as a protobuf timestamp."""
    return Timestamp(seconds=time_us // 1_000_000, nanos=time_us % 1_000_000 * 1_000)


def alert_name(alert: Alert) -> str:
    """`monitors/{monitor}/alerts/{alert}`."""
    return f"monitors/{alert.monitor}/alerts/{alert.id}"


def alert_event(alert: Alert, endpoint: str) -> events_pb2.AlertEvent:
    """The news of an alert."""
    return events_pb2.AlertEvent(
        alert=alert_name(alert),
        endpoint=endpoint,
        severity=alert.severity.name,
        state=alert.state.value,
        summary=alert.summary,
        event_time=timestamp(alert.event_us),
    )


def outcome_batch(metric: str, rows: Sequence[OutcomeRow]) -> events_pb2.OutcomeBatch:
    """Outcomes in columns."""
    return events_pb2.OutcomeBatch(
        metric=metric,
        prediction_ids=[row.prediction_id for row in rows],
        values=[row.value for row in rows],
        event_times_us=[row.event_us for row in rows],
    )


def outcome_rows(batch: events_pb2.OutcomeBatch) -> list[OutcomeRow]:
    """The rows of a batch; raises ValueError when its columns differ in length."""
    ids, values, times = batch.prediction_ids, batch.values, batch.event_times_us
    return [OutcomeRow(*row) for row in zip(ids, values, times, strict=True)]


def prediction_rows(batch: events_pb2.PredictionBatch) -> PredictionRows | None:
    """The rows of a batch; nothing when a shadow failed to score them. Raises ValueError."""
    shadow = batch.role == events_pb2.PredictionBatch.ROLE_SHADOW
    columns = from_log(batch.rows)
    if columns is None:
        return None
    return PredictionRows(batch.endpoint, batch.model_version, shadow, *columns)
