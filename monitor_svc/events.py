"""Stream payloads to domain and back."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import numpy as np
from google.protobuf.timestamp_pb2 import Timestamp
from modelyard.data.v1 import data_pb2
from modelyard.events.v1 import events_pb2

from monitor_svc.domain.alerts import Alert
from monitor_svc.domain.profiles import Labels, Numbers, Values
from monitor_svc.service.ports import OutcomeRow, PredictionRows

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_PRESENT = (data_pb2.VALUE_STATUS_UNSPECIFIED, data_pb2.VALUE_STATUS_PRESENT)


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


def prediction_rows(batch: events_pb2.PredictionBatch) -> PredictionRows:
    """The rows of a batch; raises ValueError when its columns differ in length."""
    ids = list(batch.prediction_ids)
    times = np.array(batch.event_times_us, dtype=np.int64)
    scores = np.array(batch.scores, dtype=np.float64)
    columns = {column.name: _values(column) for column in batch.inputs}
    lengths = {len(ids), len(times), len(scores), *(len(c.values) for c in columns.values())}
    if len(lengths) > 1:
        raise ValueError("the columns of a prediction batch differ in length")
    shadow = batch.role == events_pb2.PredictionBatch.ROLE_SHADOW
    return PredictionRows(batch.endpoint, batch.model_version, shadow, ids, times, scores, columns)


def _values(column: data_pb2.Column) -> Values:
    missing = _missing(column.statuses)
    if column.WhichOneof("values") == "strings":
        labels = list(column.strings.values)
        if missing is not None:
            gone = missing.tolist()
            labels = ["" if no else label for label, no in zip(labels, gone, strict=True)]
        return Labels(labels)
    integers = column.WhichOneof("values") == "int64s"
    source = column.int64s.values if integers else column.doubles.values
    numbers = np.array(source, dtype=np.float64)
    # An infinite input counts as missing: it has no place in a mean.
    numbers[~np.isfinite(numbers)] = np.nan
    if missing is not None:
        if len(missing) != len(numbers):
            raise ValueError("the statuses of a column differ from it in length")
        numbers[missing] = np.nan
    return Numbers(numbers)


def _missing(statuses: bytes) -> np.typing.NDArray[np.bool_] | None:
    if not statuses:
        return None
    return ~np.isin(np.frombuffer(statuses, dtype=np.uint8), _PRESENT)
