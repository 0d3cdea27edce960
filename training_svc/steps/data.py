"""From a window of labelled rows to a training set."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from service_kit.errors import FailedPrecondition
from training_svc.domain.rules import unique
from training_svc.ports import Document, Features, Table
from training_svc.steps.job import Job, naive_utc, short
from training_svc.validators import Validator

MakeValidator: TypeAlias = Callable[[str, Mapping[str, Any]], Validator]
Rows: TypeAlias = NDArray[np.bool_]


@dataclass(frozen=True)
class Collecting:
    """The steps validate, snapshot and features."""

    features: Features
    make_validator: MakeValidator

    def validate(self, job: Job) -> Document:
        """Holds the labelled rows of the window against the checks.

        Raises:
            FailedPrecondition: `DATA_REJECTED`, with everything that is wrong.
        """
        table = self.features.read_snapshot(self._snapshot(job))
        count = self._check(job, table, table.columns, own=True)
        return {"rows": table.row_count, "detail": f"{table.row_count} rows pass {count} checks"}

    def snapshot(self, job: Job) -> Document:
        """Freezes the rows that passed."""
        snapshot = self._snapshot(job)
        return {"snapshot": snapshot, "detail": short(snapshot)}

    def join(self, job: Job, snapshot: str) -> Document:
        """Joins the rows with their features, point-in-time, and checks the result.

        What later steps need to know of definitions is kept with it: they may change meanwhile.
        """
        data = job.pipeline.data
        made = self.features.training_set(snapshot, data.feature_service, job.key("features"))
        joined = {
            **made,
            "snapshot": snapshot,
            "timestamp_field": self.features.timestamp_field(data.label_source),
            "entity_keys": list(self.features.join_keys(data.feature_service)),
            "features": list(self.features.feature_names(data.feature_service)),
            "detail": f"{made['rows']} rows, {short(made['training_set'])}",
        }
        labelled = self.features.read_snapshot(snapshot).columns
        table = self.features.read_training_set(made["training_set"])
        _check_columns(job, joined, table)
        self._check(job, table, labelled, own=False)
        return joined

    def _snapshot(self, job: Job) -> str:
        data = job.pipeline.data
        return self.features.snapshot(
            data.label_source,
            job.run.window_start,
            job.run.window_end,
            data.label_time_column,
            job.key("snapshot"),
        )

    def _check(self, job: Job, table: Table, labelled: Collection[str], *, own: bool) -> int:
        """Runs the checks of the labelled columns (`own`) or of the joined ones."""
        if table.row_count == 0:
            raise FailedPrecondition("NO_ROWS", "the window has no labelled rows")
        found, count = [], 0
        for check in job.pipeline.checks:
            if (check.column in labelled or not check.column) is not own:
                continue
            validator = self.make_validator(check.validator, check.config)
            found += validator.check(table, check.column)
            count += 1
        if found:
            raise FailedPrecondition("DATA_REJECTED", "; ".join(found))
        return count


def input_names(job: Job, joined: Document) -> tuple[str, ...]:
    """Inputs of the model, in order: what is looked up, then what the caller gives."""
    return unique([*joined["features"], *job.pipeline.data.request_features])


def _check_columns(job: Job, joined: Document, table: Table) -> None:
    """Refuses what the pipeline names and the data does not have."""
    data, inputs = job.pipeline.data, input_names(job, joined)
    wanted = [*inputs, data.label_column, *job.pipeline.evaluation.segments]
    missing = [name for name in unique(wanted) if name not in table.columns]
    if missing:
        raise FailedPrecondition(
            "COLUMN_MISSING", f"the training set has no column {', '.join(missing)}"
        )
    declared = unique([*data.categorical_features, *data.optional_features])
    strange = [name for name in declared if name not in inputs]
    if strange:
        raise FailedPrecondition("INPUT_UNKNOWN", f"the model has no input {', '.join(strange)}")
    if data.label_column in inputs:
        raise FailedPrecondition("LABEL_IS_INPUT", "the label can't be an input")


class TrainingData:
    """A training set without the rows whose label is not known."""

    def __init__(self, table: Table, joined: Document, label_column: str) -> None:
        labels = table.column(label_column).astype(np.float64)
        known = ~np.isnan(labels)
        if not np.isin(labels[known], (0.0, 1.0)).all():
            raise FailedPrecondition("LABEL_NOT_BINARY", "labels must be 0 or 1")
        if not known.any():
            raise FailedPrecondition("NO_ROWS", "no row of the window has a label")
        self._table, self._known = table, known
        self.labels: NDArray[np.float64] = labels[known]
        self.times: NDArray[np.datetime64] = self.column(joined["timestamp_field"])

    def column(self, name: str) -> NDArray[Any]:
        """Values of a column."""
        return self._table.column(name)[self._known]

    def columns(self, names: Collection[str], rows: Rows) -> dict[str, NDArray[Any]]:
        """Values of some columns in some rows.

        Raises:
            FailedPrecondition: `INPUT_MISSING` names the columns that are not there.
        """
        missing = [name for name in names if name not in self._table.columns]
        if missing:
            raise FailedPrecondition(
                "INPUT_MISSING", f"the training set lacks inputs: {', '.join(missing)}"
            )
        return {name: self.column(name)[rows] for name in names}

    @property
    def first(self) -> datetime:
        """Time of the oldest row."""
        oldest: datetime = self.times.min().astype("datetime64[us]").astype(datetime)
        return oldest.replace(tzinfo=UTC)

    def before(self, moment: datetime) -> Rows:
        """Marks the rows that are older than a moment."""
        return np.asarray(self.times < np.datetime64(naive_utc(moment), "us"), bool)


def load(features: Features, job: Job, joined: Document) -> TrainingData:
    """Reads the training set of a run."""
    table = features.read_training_set(joined["training_set"])
    return TrainingData(table, joined, job.pipeline.data.label_column)
