"""Experiments: created, looked at, concluded."""

from __future__ import annotations

from dataclasses import dataclass, replace

from experiment_svc.domain import Analysis, Experiment, State, analyze, check, conclude
from experiment_svc.service.ports import Records
from service_kit.clock import Clock
from service_kit.errors import AlreadyExists, NotFound
from service_kit.ids import uuid7_str
from service_kit.names import check_id


@dataclass(frozen=True, slots=True)
class Experiments:
    """The use cases. The caller opens the transaction (`records`)."""

    clock: Clock

    def create(self, records: Records, wanted: Experiment) -> Experiment:
        """Create a running experiment, with an id of its own when it has none.

        Raises:
            InvalidArgument: The plan can never be right.
            AlreadyExists: `EXPERIMENT_EXISTS`.
        """
        if wanted.id:
            check_id(wanted.id, "experiment_id")
        experiment = check(
            replace(
                wanted,
                id=wanted.id or uuid7_str(),
                created=self.clock.now(),
                state=State.RUNNING,
                concluded=None,
                conclusion="",
            )
        )
        if records.experiment(experiment.id) is not None:
            raise AlreadyExists(
                "EXPERIMENT_EXISTS", "an experiment of that id exists", field="experiment_id"
            )
        records.add_experiment(experiment)
        return experiment

    def get(self, records: Records, experiment_id: str, field: str = "name") -> Experiment:
        """Get an experiment.

        Raises:
            NotFound: `EXPERIMENT_NOT_FOUND`.
        """
        return _found(records.experiment(experiment_id), field)

    def conclude(self, records: Records, experiment_id: str, conclusion: str) -> Experiment:
        """End an experiment: later exposures and outcomes do not count.

        Raises:
            FailedPrecondition: `EXPERIMENT_CONCLUDED` when it has ended already.
        """
        experiment = _found(records.experiment(experiment_id, lock=True), "name")
        ended = conclude(experiment, conclusion, self.clock.now())
        records.save_experiment(ended)
        return ended

    def analyze(self, records: Records, experiment_id: str) -> Analysis:
        """Look at what has come in; a look that finds nothing new is the last one again."""
        experiment = _found(records.experiment(experiment_id, lock=True), "name")
        verdict = analyze(experiment, records.evidence(experiment_id))
        last = records.newest_analysis(experiment_id)
        if last is not None and last.verdict == verdict:
            return last
        analysis = Analysis(uuid7_str(), self.clock.now(), verdict)
        records.add_analysis(experiment_id, analysis)
        return analysis


def _found(experiment: Experiment | None, field: str) -> Experiment:
    if experiment is None:
        raise NotFound("EXPERIMENT_NOT_FOUND", "no such experiment", field=field)
    return experiment
