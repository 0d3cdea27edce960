"""The streams' face of experiments: batches of events to columns, and on to the use cases."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from modelyard.events.v1 import events_pb2 as pb
from sqlalchemy.orm import Session

from experiment_svc.domain import Exposures
from experiment_svc.domain.moments import Floats
from experiment_svc.service import ExposureBatch, Ingestion, OutcomeBatch
from experiment_svc.storage import SqlJournal
from service_kit import metrics
from service_kit.errors import InvalidArgument
from service_kit.names import parse_name
from service_kit.streams import Event

LABEL = "label"
_ROWS = metrics.counter(
    "experiment_rows_total",
    "Rows taken from the streams, by what became of them.",
    ["kind", "fate"],
)


class Intake:
    """Handlers for the streams `exposures` and `outcomes`."""

    def __init__(self, ingestion: Ingestion) -> None:
        self._ingestion = ingestion

    def exposures(self, session: Session, events: Sequence[Event]) -> None:
        """Take exposures."""
        batches = [exposures_from_message(event.unpack(pb.ExposureBatch)) for event in events]
        _count("exposure", self._ingestion.expose(SqlJournal(session), batches))

    def outcomes(self, session: Session, events: Sequence[Event]) -> None:
        """Take the outcomes that are labels; other metrics are not for experiments yet."""
        messages = [event.unpack(pb.OutcomeBatch) for event in events]
        batches = [outcomes_from_message(one) for one in messages if one.metric == LABEL]
        if batches:
            _count("outcome", self._ingestion.observe(SqlJournal(session), batches))


def exposures_from_message(message: pb.ExposureBatch) -> ExposureBatch:
    """Read exposures.

    Raises:
        InvalidArgument: `INVALID_EVENT` when the columns do not fit together.
    """
    ids = parse_name("experiments/{experiment}", message.experiment, field="experiment")
    rows, arms = len(message.prediction_ids), len(message.arms)
    _check("unit_ids", len(message.unit_ids) == rows)
    _check("event_times_us", len(message.event_times_us) == rows)
    _check("assigned", len(message.assigned) == rows)
    _check("scores", len(message.scores) == rows * arms)
    assigned = np.array(message.assigned, dtype=np.int64)
    _check("assigned", rows > 0 and int(assigned.max()) < arms)
    scores = np.array(message.scores, dtype=np.float64).reshape(rows, arms)
    failed = _failures(message.errors, scores)
    return ExposureBatch(
        experiment_id=ids["experiment"],
        arms=tuple(message.arms),
        unit_ids=list(message.unit_ids),
        prediction_ids=list(message.prediction_ids),
        rows=Exposures(
            assigned=assigned,
            scores=np.where(np.isfinite(scores) & (failed == 0), scores, np.nan),
            latencies_us=_latencies(message, rows, arms),
            failed=failed,
            event_times_us=np.array(message.event_times_us, dtype=np.int64),
        ),
    )


def outcomes_from_message(message: pb.OutcomeBatch) -> OutcomeBatch:
    """Read outcomes.

    Raises:
        InvalidArgument: `INVALID_EVENT` when the columns do not fit together.
    """
    rows = len(message.prediction_ids)
    _check("values", len(message.values) == rows)
    _check("event_times_us", len(message.event_times_us) == rows)
    return OutcomeBatch(
        prediction_ids=list(message.prediction_ids),
        values=np.array(message.values, dtype=np.float64),
        event_times_us=np.array(message.event_times_us, dtype=np.int64),
    )


def _failures(errors: bytes, scores: Floats) -> Floats:
    """1 for an arm that failed, 0 for one that answered, NaN for one that was not asked."""
    _check("errors", len(errors) in (0, scores.size))
    flags = np.frombuffer(errors or bytes(scores.size), dtype=np.uint8).reshape(scores.shape)
    # An infinite score is an answer that nobody can use.
    failed = (flags != 0) | np.isinf(scores)
    return np.where(failed, 1.0, np.where(np.isnan(scores), np.nan, 0.0))


def _latencies(message: pb.ExposureBatch, rows: int, arms: int) -> Floats:
    """Microseconds; NaN where an arm gave none."""
    if not message.latencies_us:
        return np.full((rows, arms), np.nan)
    _check("latencies_us", len(message.latencies_us) == rows * arms)
    found = np.array(message.latencies_us, dtype=np.float64).reshape(rows, arms)
    return np.where(found > 0, found, np.nan)


def _check(field: str, fine: bool) -> None:
    if not fine:
        raise InvalidArgument("INVALID_EVENT", "does not fit the other columns", field=field)


def _count(kind: str, fates: Counter[str]) -> None:
    for fate, number in fates.items():
        if number:
            _ROWS.labels(kind, fate).inc(number)
