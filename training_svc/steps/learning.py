"""From a training set to a stored model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from service_kit.errors import FailedPrecondition
from training_svc.domain.encoding import Input, Matrix, encode, order_categories
from training_svc.domain.parity import LABEL, PREDICTION
from training_svc.domain.rules import holdout_start
from training_svc.ports import Document, Features, Registry, TrainingJobs
from training_svc.provenance import Provenance
from training_svc.steps.data import Rows, TrainingData, input_names, load
from training_svc.steps.job import Job
from training_svc.steps.shaping import Made, Shaping
from training_svc.tables import to_bytes
from training_svc.trainers import PARITY_ROWS, Fitted


@dataclass(frozen=True)
class Learning:
    """The step train, and the training on the whole window after the gate."""

    features: Features
    registry: Registry
    jobs: TrainingJobs
    shaping: Shaping
    provenance: Callable[[], Provenance]

    def train(self, job: Job, joined: Document) -> Document:
        """Trains on all but the holdout and stores the model.

        Raises:
            FailedPrecondition: `NO_HOLDOUT` when the champion has learned from every row.
        """
        data = load(self.features, job, joined)
        champion = self.registry.champion(job.pipeline.model)
        seen = None if champion is None else champion.window_end
        begin = holdout_start(job.run, job.pipeline, data.first, seen)
        learn = data.before(begin)
        if learn.all():
            raise FailedPrecondition(
                "NO_HOLDOUT",
                f"no row is as new as {begin:%Y-%m-%d %H:%M}, where the holdout begins: the "
                "champion has learned from the older ones",
            )
        found = self.provenance()
        return {
            **self._fit(job, joined, data, learn),
            "holdout_from": begin.isoformat(),
            "window_end": begin.isoformat(),
            "champion": "" if champion is None else champion.version,
            "code_commit": found.code_commit,
            "environment_hash": found.environment_hash,
        }

    def refit(self, job: Job, joined: Document, trained: Document) -> Document:
        """Trains again on the whole window, with the same settings."""
        data = load(self.features, job, joined)
        fitted = self._fit(job, joined, data, np.ones(len(data.labels), bool))
        return {**trained, **fitted, "window_end": job.run.window_end.isoformat()}

    def _fit(self, job: Job, joined: Document, data: TrainingData, rows: Rows) -> Document:
        labels = data.labels[rows]
        if len(np.unique(labels)) < 2:
            raise FailedPrecondition(
                "ONE_CLASS",
                f"the {len(labels)} rows before the holdout need labels of both classes",
            )
        inputs = inputs_for(job, joined, data, rows)
        names = [each.name for each in inputs]
        matrix = encode(data.columns(names, rows), inputs)
        fitted = self.jobs.fit(job.trainer, matrix, labels, names, job.pipeline.seed, job.check)
        shaped = self.shaping.shape(fitted, matrix, labels, job.pipeline.conversion)
        kind = shaped.fitted.model_format
        detail = f"{len(labels)} rows, {len(inputs)} inputs, {kind}{shaped.remark}"
        sample = sample_file(names, matrix, labels, fitted)
        return {
            **self._store(shaped.fitted, inputs),
            "sample": self.registry.write(sample),
            "parity_reports": [self._report(each) for each in shaped.made],
            "detail": detail,
        }

    def _store(self, fitted: Fitted, inputs: tuple[Input, ...]) -> Document:
        return {
            "runtime": fitted.runtime,
            "artifact": self.registry.write(fitted.model),
            "format": fitted.model_format,
            "bytes": len(fitted.model),
            "files": [
                [name, kind, self.registry.write(content)]
                for name, (kind, content) in fitted.files.items()
            ],
            "inputs": [asdict(each) for each in inputs],
            "importance": list(fitted.importance),
        }

    def _report(self, made: Made) -> Document:
        files = {"source": made.source, "target": made.target}
        kept = {name: self.registry.write(content) for name, content in files.items() if content}
        return {**asdict(made.parity), **kept}


def inputs_for(job: Job, joined: Document, data: TrainingData, rows: Rows) -> tuple[Input, ...]:
    """Inputs of the model; the order of categories is learned from some rows."""
    spec = job.pipeline.data
    inputs = []
    for name in input_names(job, joined):
        categorical = name in spec.categorical_features
        inputs.append(
            Input(
                name=name,
                source="REQUEST" if name in spec.request_features else "FEATURE",
                required=name not in spec.optional_features,
                categories=order_categories(data.column(name)[rows], data.labels[rows])
                if categorical
                else (),
                categorical=categorical,
            )
        )
    return tuple(inputs)


def sample_file(
    names: Sequence[str], matrix: Matrix, labels: NDArray[np.float64], fitted: Fitted
) -> bytes:
    """The rows that a model's files are compared on, as the model sees them, with its answers."""
    rows = matrix[:PARITY_ROWS]
    columns = {name: rows[:, at] for at, name in enumerate(names)}
    return to_bytes({**columns, LABEL: labels[:PARITY_ROWS], PREDICTION: fitted.predictions})
