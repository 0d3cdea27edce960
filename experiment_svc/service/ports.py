"""What the use cases need of the tables, within one transaction that the caller opens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from experiment_svc.domain import Analysis, Evidence, Experiment, Exposures
from experiment_svc.domain.moments import Floats, Ints


class Records(Protocol):
    """Experiments and their analyses."""

    def experiment(self, experiment_id: str, *, lock: bool = False) -> Experiment | None: ...
    def experiments(self, below: int | None, limit: int) -> list[tuple[int, Experiment]]: ...
    def add_experiment(self, experiment: Experiment) -> None: ...
    def save_experiment(self, experiment: Experiment) -> None: ...
    def evidence(self, experiment_id: str) -> Evidence: ...
    def newest_analysis(self, experiment_id: str) -> Analysis | None: ...
    def add_analysis(self, experiment_id: str, analysis: Analysis) -> None: ...
    def analyses(
        self, experiment_id: str, below: int | None, limit: int
    ) -> list[tuple[int, Analysis]]: ...


@dataclass(frozen=True, slots=True)
class Exposed:
    """Exposures on record of one experiment, found by their predictions.

    Attributes:
        experiment: The experiment.
        index: For each row its place in the list of predictions that was asked for, shape (n,).
        assigned: Index of the arm that answered, shape (n,).
        scores: Scores of each arm, shape (n, arms).
        event_times_us: Event times, shape (n,).
        settled: Whether the outcome has come already, shape (n,).
    """

    experiment: Experiment
    index: Ints
    assigned: Ints
    scores: Floats
    event_times_us: Ints
    settled: Ints


class Journal(Protocol):
    """Exposures and outcomes, and what they add up to.

    `exclusive` comes first: an exposure and its outcome that are written at the same moment
    would otherwise both miss each other.
    """

    def exclusive(self) -> None:
        """Wait until no other transaction writes exposures or outcomes."""

    def running(self, experiment_ids: Sequence[str]) -> Mapping[str, Experiment]:
        """Those of the experiments that take exposures and outcomes."""

    def any_running(self) -> bool:
        """Whether any experiment takes outcomes."""

    def recorded(self, experiment_id: str, prediction_ids: Sequence[str]) -> set[str]:
        """Those of the predictions whose exposure is on record."""

    def enrol(self, experiment_id: str, units: Sequence[int]) -> set[int]:
        """Put units on record; gives those that were not there."""

    def record(
        self,
        experiment_id: str,
        prediction_ids: Sequence[str],
        rows: Exposures,
        outcomes: Floats,
    ) -> None:
        """Put exposures on record; NaN where the outcome is still to come."""

    def find(self, prediction_ids: Sequence[str]) -> Sequence[Exposed]:
        """Exposures of these predictions, in every running experiment."""

    def settle(self, experiment_id: str, prediction_ids: Sequence[str], outcomes: Floats) -> None:
        """Put the outcomes of exposures on record."""

    def hold(
        self, prediction_ids: Sequence[str], values: Floats, event_times_us: Ints, now: datetime
    ) -> None:
        """Keep outcomes whose exposure may still come."""

    def held(self, prediction_ids: Sequence[str]) -> Mapping[str, tuple[float, int]]:
        """Value and event time of the outcomes kept for these predictions."""

    def add(self, experiment_id: str, evidence: Mapping[int, Evidence]) -> None:
        """Add evidence by day."""

    def forget_settled(self, now: datetime, limit: int) -> int:
        """Drop rows of concluded experiments and exposures whose outcome can no longer come."""

    def forget_held(self, before: datetime, most: int, limit: int) -> int:
        """Drop outcomes kept since before a moment, and the oldest beyond `most`."""
