"""Challenger against champion on rows that neither has seen."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service_kit.errors import DomainError
from training_svc.domain.encoding import as_text, encode
from training_svc.domain.gate import Holdout, judge
from training_svc.domain.metrics import Floats, all_metrics
from training_svc.ports import Document, Features, LoadModel, Registry, Score, Tracking
from training_svc.steps.data import Rows, TrainingData, load
from training_svc.steps.job import Job, inputs_of
from training_svc.tables import from_chunks, to_bytes

LATENCY_ROUNDS = 200
SEGMENT = "segment:"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Judging:
    """The steps evaluate and compare.

    Attributes:
        load_model: Loads a file that a trainer here has made.
        load_stored: Loads a file that anybody may have registered.
    """

    features: Features
    registry: Registry
    load_model: LoadModel
    load_stored: LoadModel
    tracking: Tracking

    def evaluate(self, job: Job, joined: Document, trained: Document) -> Document:
        """Scores the holdout with challenger and champion and logs everything to tracking."""
        data = load(self.features, job, joined)
        held = ~data.before(datetime.fromisoformat(trained["holdout_from"]))
        labels, inputs = data.labels[held], inputs_of(trained)
        content = self.registry.read(trained["artifact"])
        model = self.load_model(trained["runtime"], content, len(inputs))
        matrix = encode(data.columns([each.name for each in inputs], held), inputs)
        challenger = model(matrix)
        champion = self._champion_scores(trained["champion"], data, held)
        cost = {
            "model_bytes": float(trained["bytes"]),
            "row_latency_us": row_latency(model, matrix),
        }
        metrics = all_metrics(labels, challenger) | cost
        files = _plots(labels, challenger, champion, trained)
        segments = data.columns(job.pipeline.evaluation.segments, held)
        tracked = self._track(job, joined, trained, metrics, files)
        primary = job.pipeline.evaluation.primary_metric
        return {
            "holdout": self.registry.write(_holdout_file(labels, challenger, champion, segments)),
            "metrics": metrics,
            "champion_metrics": {} if champion is None else all_metrics(labels, champion),
            "tracking_run_id": tracked,
            "plots": [[name, self.registry.write(content)] for name, content in files.items()],
            "detail": f"{primary} {metrics.get(primary, float('nan')):.4f} on {len(labels)} rows"
            + ("" if tracked else ", not tracked"),
        }

    def compare(self, job: Job, evaluated: Document) -> Document:
        """Asks the gate."""
        table = from_chunks([self.registry.read(evaluated["holdout"])])
        segments = {
            name.removeprefix(SEGMENT): table.column(name).astype(str)
            for name in table.columns
            if name.startswith(SEGMENT)
        }
        champion = table.column("champion") if "champion" in table.columns else None
        pipeline = job.pipeline
        verdict = judge(
            Holdout(table.column("label"), table.column("challenger"), champion, segments),
            pipeline.gate,
            pipeline.evaluation,
            evaluated["metrics"],
            pipeline.seed,
        )
        return {
            **verdict.document(),
            "refit": pipeline.evaluation.refit,
            "detail": "; ".join(verdict.reasons),
        }

    def _champion_scores(self, version: str, data: TrainingData, held: Rows) -> Floats | None:
        """Scores of the champion that the holdout was chosen for."""
        if not version:
            return None
        champion = self.registry.version(version)
        columns = data.columns([each.name for each in champion.inputs], held)
        content = self.registry.read(champion.artifact)
        model = self.load_stored(champion.runtime, content, len(champion.inputs))
        return model(encode(columns, champion.inputs))

    def _track(
        self,
        job: Job,
        joined: Document,
        trained: Document,
        metrics: Mapping[str, float],
        files: Mapping[str, bytes],
    ) -> str:
        """Logs the run; a run goes on untracked, as the record is the registry's."""
        tags = {
            "modelyard.snapshot": joined["snapshot"],
            "modelyard.training_set": joined["training_set"],
            "modelyard.code_commit": trained["code_commit"],
            "modelyard.environment_hash": trained["environment_hash"],
            "modelyard.trigger": job.run.trigger.kind.value,
            "modelyard.reason": job.run.trigger.reason,
            "modelyard.evaluated_artifact": trained["artifact"],
        }
        try:
            return self.tracking.log(job.pipeline.id, job.run, job.parameters, metrics, tags, files)
        except DomainError as error:
            logger.warning("the run is not tracked", extra={"reason": error.reason})
            return ""


def row_latency(model: Score, matrix: NDArray[np.float32]) -> float:
    """Median time to score one row alone, in microseconds."""
    row, times = matrix[:1], np.empty(LATENCY_ROUNDS)
    for at in range(LATENCY_ROUNDS):
        began = time.perf_counter()
        model(row)
        times[at] = time.perf_counter() - began
    return float(np.median(times) * 1e6)


def _plots(
    labels: Floats, challenger: Floats, champion: Floats | None, trained: Document
) -> dict[str, bytes]:
    # The library takes a second to import: here the service is up already.
    from training_svc.plots import evaluation_plots

    names = [each.name for each in inputs_of(trained)]
    return evaluation_plots(labels, challenger, champion, names, trained["importance"])


def _holdout_file(
    labels: Floats, challenger: Floats, champion: Floats | None, segments: Mapping[str, Any]
) -> bytes:
    columns = {"label": labels, "challenger": challenger}
    if champion is not None:
        columns["champion"] = champion
    texts = {f"{SEGMENT}{name}": as_text(values) for name, values in segments.items()}
    return to_bytes({**columns, **texts})
