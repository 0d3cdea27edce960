"""Experiments and analyses in SQL."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

from sqlalchemy import select
from sqlalchemy.orm import Session

from experiment_svc.domain import Analysis, Evidence, Experiment, Moments, Series, Tally, gather
from experiment_svc.storage.documents import (
    analysis_from_row,
    analysis_to_row,
    experiment_from_row,
    experiment_to_row,
)
from experiment_svc.storage.tables import (
    AnalysisRow,
    ExperimentRow,
    MomentsRow,
    TallyRow,
)
from service_kit.idempotency import Serializable

M = TypeVar("M", bound=Serializable)


class SqlRecords:
    """The port `Records`, within one session."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def experiment(self, experiment_id: str, *, lock: bool = False) -> Experiment | None:
        row = self._row(experiment_id, lock=lock)
        return experiment_from_row(row) if row else None

    def experiments(self, below: int | None, limit: int) -> list[tuple[int, Experiment]]:
        statement = select(ExperimentRow).order_by(ExperimentRow.number.desc()).limit(limit)
        if below is not None:
            statement = statement.where(ExperimentRow.number < below)
        rows = self._session.scalars(statement)
        return [(row.number, experiment_from_row(row)) for row in rows]

    def add_experiment(self, experiment: Experiment) -> None:
        self._session.add(experiment_to_row(experiment))
        self._session.flush()

    def save_experiment(self, experiment: Experiment) -> None:
        row = self._known(experiment.id)
        row.state = experiment.state.value
        row.concluded = experiment.concluded
        row.conclusion = experiment.conclusion

    def evidence(self, experiment_id: str) -> Evidence:
        row = self._known(experiment_id)
        days = [*self._moments(row.number), *self._tallies(row.number)]
        return gather([Evidence(newest_us=row.newest_us), *days])

    def newest_analysis(self, experiment_id: str) -> Analysis | None:
        newest = self.analyses(experiment_id, None, 1)
        return newest[0][1] if newest else None

    def add_analysis(self, experiment_id: str, analysis: Analysis) -> None:
        self._session.add(analysis_to_row(self._known(experiment_id).number, analysis))

    def analyses(
        self, experiment_id: str, below: int | None, limit: int
    ) -> list[tuple[int, Analysis]]:
        number = self._known(experiment_id).number
        statement = select(AnalysisRow).where(AnalysisRow.experiment == number)
        if below is not None:
            statement = statement.where(AnalysisRow.number < below)
        rows = self._session.scalars(statement.order_by(AnalysisRow.number.desc()).limit(limit))
        return [(row.number, analysis_from_row(row)) for row in rows]

    def _row(self, experiment_id: str, *, lock: bool = False) -> ExperimentRow | None:
        statement = select(ExperimentRow).where(ExperimentRow.id == experiment_id)
        if lock:
            statement = statement.with_for_update()
        return self._session.scalar(statement)

    def _known(self, experiment_id: str) -> ExperimentRow:
        row = self._row(experiment_id)
        if row is None:
            raise LookupError("no such experiment")
        return row

    def _moments(self, number: int) -> Iterator[Evidence]:
        mine = select(MomentsRow).where(MomentsRow.experiment == number).order_by(MomentsRow.day)
        for row in self._session.scalars(mine):
            series = Series(row.metric, row.arm, row.kind)
            yield Evidence({series: Moments(row.n, row.mean, row.m2)})

    def _tallies(self, number: int) -> Iterator[Evidence]:
        for row in self._session.scalars(select(TallyRow).where(TallyRow.experiment == number)):
            yield Evidence({}, {row.arm: Tally(row.exposures, row.outcomes)})
