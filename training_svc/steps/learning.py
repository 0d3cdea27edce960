"""From a training set to a stored model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import numpy as np

from service_kit.errors import FailedPrecondition
from training_svc.domain.encoding import Input, Matrix, encode, order_categories
from training_svc.domain.rules import holdout_start
from training_svc.ports import Document, Features, LoadModel, Registry, TrainingJobs
from training_svc.provenance import Provenance
from training_svc.steps.data import Rows, TrainingData, input_names, load
from training_svc.steps.job import Job
from training_svc.trainers import PARITY_ROWS, Fitted

PARITY_TOLERANCE = 1e-4
"""Most that a converted model may differ from its source in the probability of any row."""


@dataclass(frozen=True)
class Learning:
    """The step train, and the training on the whole window after the gate."""

    features: Features
    registry: Registry
    jobs: TrainingJobs
    load_model: LoadModel
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
        fitted, remark = self._faithful(fitted, matrix)
        detail = f"{len(labels)} rows, {len(inputs)} inputs, {fitted.model_format}{remark}"
        return {**self._store(fitted, inputs), "detail": detail}

    def _faithful(self, fitted: Fitted, matrix: Matrix) -> tuple[Fitted, str]:
        """The model in a form that scores as its source does: converted, else native."""
        worst = self._difference(fitted, matrix)
        if worst <= PARITY_TOLERANCE:
            return fitted, ""
        for name, (kind, content) in fitted.files.items():
            native = replace(fitted, runtime=kind, model=content, model_format=kind)
            if kind == fitted.native and self._difference(native, matrix) <= PARITY_TOLERANCE:
                rest = {other: file for other, file in fitted.files.items() if other != name}
                return (
                    replace(native, files=rest),
                    f" (the {fitted.model_format} form differs by up to {worst:.2g})",
                )
        raise FailedPrecondition(
            "CONVERSION_DIFFERS",
            f"the converted model differs by up to {worst:.2g} from its source "
            f"(at most {PARITY_TOLERANCE:g} is allowed)",
        )

    def _difference(self, fitted: Fitted, matrix: Matrix) -> float:
        """Largest difference in probability; infinite when a score is no number."""
        served = self.load_model(fitted.runtime, fitted.model, matrix.shape[1])
        scores = served(matrix[:PARITY_ROWS])
        worst = float(np.max(np.abs(scores - fitted.predictions)))
        return worst if np.isfinite(worst) else float("inf")

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
