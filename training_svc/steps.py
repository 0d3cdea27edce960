"""The steps of a run. Each may run twice: its effects carry the run's id as their key."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service_kit.errors import FailedPrecondition
from training_svc.domain.encoding import Input, encode, order_categories
from training_svc.domain.gate import Holdout, judge
from training_svc.domain.metrics import all_metrics
from training_svc.domain.pipelines import Pipeline, PipelineRun, TrainerSpec
from training_svc.domain.rules import holdout_start, unique
from training_svc.plots import evaluation_plots
from training_svc.ports import (
    Champion,
    Document,
    Features,
    Registry,
    Scorer,
    Serving,
    Table,
    Tracking,
    TrainingJobs,
)
from training_svc.provenance import Provenance
from training_svc.tables import from_chunks, to_bytes
from training_svc.trainers import Fitted
from training_svc.validators import Validator

PARITY_TOLERANCE = 1e-3
"""Most that a converted model may differ from its source in the probability of any row."""

LATENCY_ROUNDS = 50

MakeValidator = Callable[[str, Mapping[str, Any]], Validator]


@dataclass(frozen=True, slots=True)
class Job:
    """A run with its pipeline as it was when the run began."""

    run: PipelineRun
    pipeline: Pipeline

    def key(self, step: str) -> str:
        """Idempotency key of a step's effect."""
        return f"{self.run.id}:{step}"

    @property
    def trainer(self) -> TrainerSpec:
        """The trainer with the run's own settings."""
        spec = self.pipeline.trainer
        return replace(spec, config={**spec.config, **self.run.trainer_config})


@dataclass(frozen=True)
class Steps:
    """What a run does, step by step."""

    features: Features
    registry: Registry
    serving: Serving
    jobs: TrainingJobs
    scorer: Scorer
    tracking: Tracking
    provenance: Provenance
    make_validator: MakeValidator

    def validate(self, job: Job) -> Document:
        """Holds the labelled rows of the window against the checks.

        Raises:
            FailedPrecondition: `DATA_REJECTED`, with everything that is wrong.
        """
        snapshot = self._snapshot(job)
        table = self.features.read_snapshot(snapshot)
        count = self._check(job, table, table.columns, own=True)
        return {"rows": table.row_count, "detail": f"{table.row_count} rows pass {count} checks"}

    def snapshot(self, job: Job) -> Document:
        """Freezes the rows that passed."""
        snapshot = self._snapshot(job)
        return {"snapshot": snapshot, "detail": short(snapshot)}

    def join(self, job: Job, snapshot: str) -> Document:
        """Joins the rows with their features, point-in-time, and checks the result."""
        data = job.pipeline.data
        made = self.features.training_set(snapshot, data.feature_service, job.key("features"))
        labelled = self.features.read_snapshot(snapshot).columns
        table = self.features.read_training_set(made["training_set"])
        self._check(job, table, labelled, own=False)
        return {**made, "detail": f"{made['rows']} rows, {short(made['training_set'])}"}

    def train(self, job: Job, training_set: str) -> Document:
        """Trains on all but the holdout and stores the model."""
        data = self._data(job, training_set)
        learn = data.times < np.datetime64(data.holdout_from.replace(tzinfo=None), "us")
        fitted, inputs = self._fit(job, data, learn)
        stored = self._store(fitted, inputs)
        return {
            **stored,
            "holdout_from": data.holdout_from.isoformat(),
            "detail": f"{int(learn.sum())} rows, {len(inputs)} inputs",
        }

    def evaluate(self, job: Job, training_set: str, trained: Document) -> Document:
        """Scores the holdout with challenger and champion and logs everything to tracking."""
        data = self._data(job, training_set)
        held = data.times >= np.datetime64(datetime_of(trained["holdout_from"]), "us")
        columns = {name: data.table.column(name)[held] for name in data.table.columns}
        labels = data.labels[held]
        challenger = self._score(
            trained["runtime"], trained["artifact"], inputs_of(trained), columns
        )
        champion = self._champion_scores(data.champion, columns)
        metrics = all_metrics(labels, challenger) | self._cost(trained, columns)
        files = evaluation_plots(
            labels,
            challenger,
            champion,
            [each.name for each in inputs_of(trained)],
            trained["importance"],
        )
        segments = {
            f"segment:{name}": columns[name].astype(str)
            for name in job.pipeline.evaluation.segments
        }
        holdout = {"label": labels, "challenger": challenger, **segments}
        if champion is not None:
            holdout["champion"] = champion
        tracked = self._log(job, training_set, trained, metrics, files)
        return {
            "holdout": self.registry.write(to_bytes(holdout)),
            "metrics": metrics,
            "champion": "" if data.champion is None else data.champion.version,
            "champion_metrics": {} if champion is None else all_metrics(labels, champion),
            "tracking_run_id": tracked,
            "plots": [self._plot(name, content) for name, content in files.items()],
            "detail": f"{job.pipeline.evaluation.primary_metric} "
            f"{metrics.get(job.pipeline.evaluation.primary_metric, float('nan')):.4f} "
            f"on {len(labels)} rows",
        }

    def compare(self, job: Job, evaluated: Document) -> Document:
        """Asks the gate."""
        table = from_chunks([self.registry.read(evaluated["holdout"])])
        segments = {
            name.removeprefix("segment:"): table.column(name).astype(str)
            for name in table.columns
            if name.startswith("segment:")
        }
        champion = table.column("champion") if "champion" in table.columns else None
        holdout = Holdout(table.column("label"), table.column("challenger"), champion, segments)
        verdict = judge(
            holdout,
            job.pipeline.gate,
            job.pipeline.evaluation,
            evaluated["metrics"],
            job.pipeline.seed,
        )
        return {**verdict.document(), "detail": "; ".join(verdict.reasons)}

    def register(
        self,
        job: Job,
        joined: Document,
        trained: Document,
        evaluated: Document,
        verdict: Document,
    ) -> Document:
        """Registers the version with its lineage, whatever the gate says of it."""
        if verdict["passed"] and job.pipeline.evaluation.refit:
            data = self._data(job, joined["training_set"])
            fitted, inputs = self._fit(job, data, np.ones(len(data.labels), bool))
            trained = {**trained, **self._store(fitted, inputs)}
            window_end = job.run.window_end
        else:
            window_end = datetime.fromisoformat(trained["holdout_from"])
        self.registry.ensure_model(job.pipeline.model, job.pipeline.name)
        version = self._version(job, joined, trained, evaluated, verdict, window_end)
        name = self.registry.register(job.pipeline.model, version, job.key("register"))
        return {"model_version": name, "detail": name}

    def roll_out(self, job: Job, version: str) -> Document:
        """Deploys the first version of an endpoint; starts the rollout of a later one."""
        release = job.pipeline.release
        if release is None:
            return {"rollout": "", "detail": "no release asked for"}
        reason = f"{job.run.trigger.kind.value.lower()} run {job.run.id}"
        if not self.serving.has_champion(release.endpoint):
            self.serving.deploy(release.endpoint, version, reason, job.key("deploy"))
            return {"rollout": "", "detail": f"deployed to {release.endpoint}"}
        rollout = self.serving.roll_out(
            release.endpoint, version, release.strategy, job.key("roll_out")
        )
        return {"rollout": rollout, "detail": rollout}

    def _snapshot(self, job: Job) -> str:
        data = job.pipeline.data
        return self.features.snapshot(
            data.label_source,
            job.run.window_start,
            job.run.window_end,
            data.label_time_column,
            job.key("snapshot"),
        )

    def _check(self, job: Job, table: Table, labelled: Any, *, own: bool) -> int:
        """Runs the checks of the labelled columns (`own`) or of the joined ones."""
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

    def _data(self, job: Job, training_set: str) -> Data:
        table = self.features.read_training_set(training_set)
        times = table.column(self.features.timestamp_field(job.pipeline.data.label_source))
        champion = self.registry.champion(job.pipeline.model)
        first = times.min().astype("datetime64[us]").astype(datetime).replace(tzinfo=UTC)
        begin = holdout_start(
            job.run, job.pipeline, first, None if champion is None else champion.window_end
        )
        labels = table.column(job.pipeline.data.label_column).astype(np.float64)
        return Data(table, times, labels, begin, champion)

    def _fit(
        self, job: Job, data: Data, rows: NDArray[np.bool_]
    ) -> tuple[Fitted, tuple[Input, ...]]:
        labels = data.labels[rows]
        if len(np.unique(labels)) < 2:
            raise FailedPrecondition("ONE_CLASS", "the training rows need labels of both classes")
        inputs = self._inputs(job, data, rows)
        columns = {each.name: data.table.column(each.name)[rows] for each in inputs}
        matrix = encode(columns, inputs)
        names = [each.name for each in inputs]
        fitted = self.jobs.fit(job.trainer, matrix, labels, names, job.pipeline.seed)
        self._check_parity(fitted, matrix)
        return fitted, inputs

    def _inputs(self, job: Job, data: Data, rows: NDArray[np.bool_]) -> tuple[Input, ...]:
        spec = job.pipeline.data
        looked_up = self.features.feature_names(spec.feature_service)
        inputs = []
        for name in unique([*looked_up, *spec.request_features]):
            categorical = name in spec.categorical_features
            values = data.table.column(name)[rows] if categorical else None
            inputs.append(
                Input(
                    name=name,
                    source="REQUEST" if name in spec.request_features else "FEATURE",
                    required=name not in spec.optional_features,
                    categories=()
                    if values is None
                    else order_categories(values, data.labels[rows]),
                    categorical=categorical,
                )
            )
        return tuple(inputs)

    def _check_parity(self, fitted: Fitted, matrix: NDArray[np.float32]) -> None:
        sample = matrix[: len(fitted.predictions)]
        served = self.scorer.score(fitted.runtime, fitted.model, sample)
        worst = float(np.max(np.abs(served - fitted.predictions)))
        if not worst <= PARITY_TOLERANCE:
            raise FailedPrecondition(
                "CONVERSION_DIFFERS",
                f"the converted model differs by up to {worst:.2g} from its source "
                f"(at most {PARITY_TOLERANCE:g} is allowed)",
            )

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

    def _score(
        self,
        runtime: str,
        artifact: str,
        inputs: tuple[Input, ...],
        columns: Mapping[str, NDArray[Any]],
    ) -> NDArray[np.float64]:
        missing = [each.name for each in inputs if each.name not in columns]
        if missing:
            raise FailedPrecondition(
                "INPUT_MISSING", f"the training set lacks inputs: {', '.join(missing)}"
            )
        return self.scorer.score(runtime, self.registry.read(artifact), encode(columns, inputs))

    def _champion_scores(
        self, champion: Champion | None, columns: Mapping[str, NDArray[Any]]
    ) -> NDArray[np.float64] | None:
        if champion is None:
            return None
        return self._score(champion.runtime, champion.artifact, champion.inputs, columns)

    def _cost(self, trained: Document, columns: Mapping[str, NDArray[Any]]) -> dict[str, float]:
        """Size of the model, and time for one row at a time in microseconds."""
        inputs = inputs_of(trained)
        matrix = encode({name: values[:1] for name, values in columns.items()}, inputs)
        model = self.registry.read(trained["artifact"])
        self.scorer.score(trained["runtime"], model, matrix)
        began = time.perf_counter()
        for _ in range(LATENCY_ROUNDS):
            self.scorer.score(trained["runtime"], model, matrix)
        row = (time.perf_counter() - began) / LATENCY_ROUNDS
        return {"model_bytes": float(trained["bytes"]), "row_latency_us": row * 1e6}

    def _plot(self, name: str, content: bytes) -> list[str]:
        return [name, self.registry.write(content)]

    def _log(
        self,
        job: Job,
        training_set: str,
        trained: Document,
        metrics: Mapping[str, float],
        files: Mapping[str, bytes],
    ) -> str:
        tags = {
            "modelyard.training_set": training_set,
            "modelyard.code_commit": self.provenance.code_commit,
            "modelyard.environment_hash": self.provenance.environment_hash,
            "modelyard.trigger": job.run.trigger.kind.value,
            "modelyard.reason": job.run.trigger.reason,
            "modelyard.model_artifact": trained["artifact"],
        }
        parameters = parameters_of(job)
        return self.tracking.log(job.pipeline.id, job.run, parameters, metrics, tags, files)

    def _version(
        self,
        job: Job,
        joined: Document,
        trained: Document,
        evaluated: Document,
        verdict: Document,
        window_end: datetime,
    ) -> Document:
        """The version as the registry adapter takes it."""
        artifacts = [
            ["model", f"model.{trained['format']}", trained["artifact"], trained["format"]],
            *(["source_model", name, artifact, kind] for name, kind, artifact in trained["files"]),
            *(["plot", name, artifact, "png"] for name, artifact in evaluated["plots"]),
            ["holdout", "holdout.arrow", evaluated["holdout"], "arrow"],
        ]
        service = job.pipeline.data.feature_service
        return {
            "artifacts": artifacts,
            "runtime": trained["runtime"],
            "inputs": trained["inputs"],
            "outputs": ["score"],
            "entity_keys": list(self.features.join_keys(service)),
            "feature_service": service,
            "metrics": evaluated["metrics"],
            "parameters": parameters_of(job),
            "gate": verdict,
            "lineage": {
                "pipeline_run": job.run.name,
                "tracking_run_id": evaluated["tracking_run_id"],
                "snapshot": joined["snapshot"],
                "training_set": joined["training_set"],
                "feature_service": service,
                "feature_definitions_hash": joined["definitions_hash"],
                "code_commit": self.provenance.code_commit,
                "environment_hash": self.provenance.environment_hash,
                "seed": job.pipeline.seed,
                "parent_version": evaluated["champion"],
            },
            "tags": {"modelyard.window_end": window_end.isoformat()},
        }


@dataclass(frozen=True, slots=True)
class Data:
    """A training set, loaded."""

    table: Table
    times: NDArray[np.datetime64]
    labels: NDArray[np.float64]
    holdout_from: datetime
    champion: Champion | None


def parameters_of(job: Job) -> dict[str, str]:
    """Everything that was chosen, as text."""
    settings = {key: str(value) for key, value in job.trainer.config.items()}
    return {"trainer": job.trainer.trainer, "seed": str(job.pipeline.seed), **settings}


def inputs_of(trained: Document) -> tuple[Input, ...]:
    """Inputs of a trained model, from the step's result."""
    return tuple(
        Input(**{**each, "categories": tuple(each["categories"])}) for each in trained["inputs"]
    )


def datetime_of(text: str) -> datetime:
    """A moment as numpy takes it: naive, in UTC."""
    return datetime.fromisoformat(text).astimezone(UTC).replace(tzinfo=None)


def short(name: str) -> str:
    """A resource name with its hash cut to twelve characters."""
    kind, _, digest = name.partition("/")
    return f"{kind}/{digest[:12]}"
