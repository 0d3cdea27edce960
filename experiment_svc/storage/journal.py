"""Exposures, outcomes and their sums in SQL, a batch at a time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
from sqlalchemy import (
    Insert,
    Table,
    and_,
    bindparam,
    delete,
    exists,
    func,
    or_,
    select,
    text,
    tuple_,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from experiment_svc.domain import Evidence, Experiment, Exposures, State
from experiment_svc.domain.moments import Floats, Ints
from experiment_svc.service import Exposed
from experiment_svc.storage.documents import experiment_from_row
from experiment_svc.storage.tables import (
    Base,
    ExperimentRow,
    ExposureRow,
    HeldRow,
    MomentsRow,
    TallyRow,
    UnitRow,
)

# Parameters of one statement: SQLite takes 32,766, PostgreSQL 65,535.
CHUNK = 5_000
_LOCK = 0x6578_706A
_RUNNING = ExperimentRow.state == State.RUNNING.value
_EXPOSURES, _UNITS, _HELD = (
    Base.metadata.tables[row.__tablename__] for row in (ExposureRow, UnitRow, HeldRow)
)

T = TypeVar("T")


class SqlJournal:
    """The port `Journal`, within one session."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._dialect = session.get_bind().dialect.name

    def exclusive(self) -> None:
        # On SQLite a transaction that writes is the only one from its start.
        if self._dialect == "postgresql":
            self._session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})

    def running(self, experiment_ids: Sequence[str]) -> Mapping[str, Experiment]:
        wanted = set(experiment_ids)
        return {one.id: one for one in self._running.values() if one.id in wanted}

    def any_running(self) -> bool:
        return bool(self._running)

    def recorded(self, experiment_id: str, prediction_ids: Sequence[str]) -> set[str]:
        number = self._number(experiment_id)
        mine = select(ExposureRow.prediction_id).where(ExposureRow.experiment == number)
        return {
            found
            for part in _chunks(prediction_ids)
            for found in self._session.scalars(mine.where(ExposureRow.prediction_id.in_(part)))
        }

    def enrol(self, experiment_id: str, units: Sequence[int]) -> set[int]:
        number = self._number(experiment_id)
        statement = self._insert(_UNITS).on_conflict_do_nothing().returning(_UNITS.c.unit)
        rows = [{"experiment": number, "unit": unit} for unit in sorted(units)]
        return set(self._session.execute(statement, rows).scalars()) if rows else set()

    def record(
        self,
        experiment_id: str,
        prediction_ids: Sequence[str],
        rows: Exposures,
        outcomes: Floats,
    ) -> None:
        number = self._number(experiment_id)
        scores = np.ascontiguousarray(rows.scores, dtype="<f8")
        values = [
            {
                "prediction_id": prediction_id,
                "experiment": number,
                "assigned": assigned,
                "scores": row.tobytes(),
                "event_us": event_us,
                "outcome": None if outcome != outcome else outcome,
            }
            for prediction_id, assigned, row, event_us, outcome in zip(
                prediction_ids,
                rows.assigned.tolist(),
                scores,
                rows.event_times_us.tolist(),
                outcomes.tolist(),
                strict=True,
            )
        ]
        self._session.execute(_EXPOSURES.insert(), values)
        self._advance(number, int(rows.event_times_us.max()))

    def find(self, prediction_ids: Sequence[str]) -> Sequence[Exposed]:
        place = {one: index for index, one in enumerate(prediction_ids)}
        columns = _EXPOSURES.c
        found: dict[int, list[Any]] = defaultdict(list)
        for part in _chunks(prediction_ids):
            statement = select(
                columns.prediction_id,
                columns.experiment,
                columns.assigned,
                columns.scores,
                columns.event_us,
                columns.outcome.is_not(None),
            ).where(columns.prediction_id.in_(part), columns.experiment.in_(self._running))
            for row in self._session.execute(statement):
                found[row.experiment].append(row)
        return [
            _exposed(self._running[number], rows, place) for number, rows in sorted(found.items())
        ]

    def settle(self, experiment_id: str, prediction_ids: Sequence[str], outcomes: Floats) -> None:
        statement = (
            update(_EXPOSURES)
            .where(
                _EXPOSURES.c.prediction_id == bindparam("prediction"),
                _EXPOSURES.c.experiment == self._number(experiment_id),
            )
            .values(outcome=bindparam("value"))
        )
        rows = [
            {"prediction": prediction_id, "value": value}
            for prediction_id, value in zip(prediction_ids, outcomes.tolist(), strict=True)
        ]
        self._session.connection().execute(statement, rows)

    def hold(
        self, prediction_ids: Sequence[str], values: Floats, event_times_us: Ints, now: datetime
    ) -> None:
        rows = [
            {"prediction_id": one, "value": value, "event_us": event_us, "received": now}
            for one, value, event_us in zip(
                prediction_ids, values.tolist(), event_times_us.tolist(), strict=True
            )
        ]
        self._session.execute(self._insert(_HELD).on_conflict_do_nothing(), rows)

    def held(self, prediction_ids: Sequence[str]) -> Mapping[str, tuple[float, int]]:
        columns = (HeldRow.prediction_id, HeldRow.value, HeldRow.event_us)
        return {
            one: (value, event_us)
            for part in _chunks(prediction_ids)
            for one, value, event_us in self._session.execute(
                select(*columns).where(HeldRow.prediction_id.in_(part))
            )
        }

    def add(self, experiment_id: str, evidence: Mapping[int, Evidence]) -> None:
        number = self._number(experiment_id)
        moments = [
            {
                "experiment": number,
                "day": day,
                "metric": series.metric,
                "kind": series.kind,
                "arm": series.arm,
                "n": sums.n,
                "mean": sums.mean,
                "m2": sums.m2,
            }
            for day, part in evidence.items()
            for series, sums in part.moments.items()
        ]
        tallies = [
            {
                "experiment": number,
                "day": day,
                "arm": arm,
                "exposures": tally.exposures,
                "outcomes": tally.outcomes,
            }
            for day, part in evidence.items()
            for arm, tally in part.tallies.items()
        ]
        if moments:
            self._session.execute(self._merge_moments, moments)
        if tallies:
            self._session.execute(self._merge_tallies, tallies)

    def forget_settled(self, now: datetime, limit: int) -> int:
        ended = select(ExperimentRow.number).where(~_RUNNING)
        gone = self._delete(_UNITS, _UNITS.c.experiment.in_(ended), limit)
        # What an outcome could still be joined with stays.
        expired = exists().where(
            ExperimentRow.number == _EXPOSURES.c.experiment,
            or_(
                ~_RUNNING,
                and_(
                    _EXPOSURES.c.event_us < ExperimentRow.newest_us - ExperimentRow.max_delay_us,
                    # An event that lies ahead must not outdate those of today.
                    _EXPOSURES.c.event_us < int(now.timestamp() * 1e6) - ExperimentRow.max_delay_us,
                ),
            ),
        )
        return gone + self._delete(_EXPOSURES, expired, limit)

    def forget_held(self, before: datetime, most: int, limit: int) -> int:
        newest = self._session.scalar(select(func.max(HeldRow.number))) or 0
        old = or_(_HELD.c.received < before, _HELD.c.number <= newest - most)
        return self._delete(_HELD, old, limit)

    @cached_property
    def _running(self) -> Mapping[int, Experiment]:
        # Locked, so that an experiment is neither concluded nor analysed halfway through.
        mine = select(ExperimentRow).where(_RUNNING).order_by(ExperimentRow.number)
        rows = self._session.scalars(mine.with_for_update())
        return {row.number: experiment_from_row(row) for row in rows}

    def _number(self, experiment_id: str) -> int:
        return next(number for number, one in self._running.items() if one.id == experiment_id)

    def _advance(self, number: int, newest_us: int) -> None:
        self._session.execute(
            update(ExperimentRow)
            .where(ExperimentRow.number == number, ExperimentRow.newest_us < newest_us)
            .values(newest_us=newest_us)
            .execution_options(synchronize_session=False)
        )

    def _insert(self, table: Table) -> Any:
        return (postgresql if self._dialect == "postgresql" else sqlite).insert(table)

    @cached_property
    def _merge_moments(self) -> Insert:
        """Chan's update of count, mean and second moment, as one statement."""
        table = Base.metadata.tables[MomentsRow.__tablename__]
        statement = self._insert(table)
        old, new = table.c, statement.excluded
        n, step = old.n + new.n, new.mean - old.mean
        merged: Insert = statement.on_conflict_do_update(
            index_elements=list(table.primary_key),
            set_={
                "n": n,
                "mean": old.mean + step * new.n / n,
                "m2": old.m2 + new.m2 + step * step * old.n * new.n / n,
            },
        )
        return merged

    @cached_property
    def _merge_tallies(self) -> Insert:
        table = Base.metadata.tables[TallyRow.__tablename__]
        statement = self._insert(table)
        merged: Insert = statement.on_conflict_do_update(
            index_elements=list(table.primary_key),
            set_={
                name: table.c[name] + statement.excluded[name] for name in ("exposures", "outcomes")
            },
        )
        return merged

    def _delete(self, table: Table, condition: Any, limit: int) -> int:
        key = tuple_(*table.primary_key)
        some = select(*table.primary_key).where(condition).limit(limit)
        gone: Any = self._session.execute(delete(table).where(key.in_(some)))
        return int(gone.rowcount)


def _exposed(experiment: Experiment, rows: Sequence[Any], place: Mapping[str, int]) -> Exposed:
    ids, _, assigned, scores, event_times, settled = zip(*rows, strict=True)
    return Exposed(
        experiment=experiment,
        index=np.array([place[one] for one in ids], dtype=np.int64),
        assigned=np.array(assigned, dtype=np.int64),
        scores=np.frombuffer(b"".join(scores), dtype="<f8").reshape(len(rows), -1),
        event_times_us=np.array(event_times, dtype=np.int64),
        settled=np.array(settled, dtype=np.int64),
    )


def _chunks(items: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), CHUNK):
        yield items[start : start + CHUNK]
