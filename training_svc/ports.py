"""What the use cases need from outside, as small protocols."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from training_svc.domain.encoding import Input
from training_svc.domain.pipelines import Pipeline, PipelineRun, TrainerSpec
from training_svc.trainers import Fitted

Document: TypeAlias = dict[str, Any]


class Records(Protocol):
    """Pipelines and runs, within one transaction."""

    def pipeline(self, pipeline_id: str) -> Pipeline | None: ...
    def pipelines(self, after: str, limit: int) -> list[Pipeline]: ...
    def save_pipeline(self, pipeline: Pipeline) -> None: ...
    def delete_pipeline(self, pipeline_id: str) -> None: ...
    def run(self, run_id: str) -> PipelineRun | None: ...
    def runs(self, pipeline_id: str, below: str, limit: int) -> list[PipelineRun]: ...
    def save_run(self, run: PipelineRun) -> None: ...


class Store(Protocol):
    """Opens transactions."""

    def transaction(self) -> AbstractContextManager[Records]: ...


class Table(Protocol):
    """Rows by column."""

    @property
    def row_count(self) -> int: ...
    @property
    def columns(self) -> Sequence[str]: ...
    def column(self, name: str) -> NDArray[Any]: ...


class Features(Protocol):
    """The feature service."""

    def snapshot(
        self,
        source: str,
        start: datetime | None,
        end: datetime,
        known_by: str,
        request_id: str,
    ) -> str: ...
    def read_snapshot(self, snapshot: str) -> Table: ...
    def training_set(self, snapshot: str, feature_service: str, request_id: str) -> Document: ...
    def read_training_set(self, training_set: str) -> Table: ...
    def timestamp_field(self, source: str) -> str: ...
    def join_keys(self, feature_service: str) -> tuple[str, ...]: ...
    def feature_names(self, feature_service: str) -> tuple[str, ...]: ...


@dataclass(frozen=True)
class Champion:
    """The champion as far as a run needs it; `window_end` None when not recorded."""

    version: str
    runtime: str
    artifact: str
    inputs: tuple[Input, ...]
    window_end: datetime | None


class Registry(Protocol):
    """The model registry."""

    def write(self, content: bytes) -> str:
        """Stores content; gives `artifacts/{sha256}`."""
        ...

    def read(self, artifact: str) -> bytes: ...
    def champion(self, model: str) -> Champion | None: ...
    def ensure_model(self, model: str, owner: str) -> None: ...
    def register(self, model: str, version: Document, request_id: str) -> str: ...


class Serving(Protocol):
    """The serving service."""

    def has_champion(self, endpoint: str) -> bool: ...
    def deploy(self, endpoint: str, version: str, reason: str, request_id: str) -> None: ...
    def roll_out(
        self, endpoint: str, version: str, strategy: Mapping[str, Any], request_id: str
    ) -> str: ...


class TrainingJobs(Protocol):
    """Runs trainers somewhere with enough room."""

    def fit(
        self,
        spec: TrainerSpec,
        inputs: NDArray[np.float32],
        labels: NDArray[np.float64],
        names: Sequence[str],
        seed: int,
    ) -> Fitted: ...


class Scorer(Protocol):
    """Loads models by runtime plugin and scores rows."""

    def score(
        self, runtime: str, model: bytes, inputs: NDArray[np.float32]
    ) -> NDArray[np.float64]: ...


class Tracking(Protocol):
    """Experiment tracking."""

    def log(
        self,
        experiment: str,
        run: PipelineRun,
        parameters: Mapping[str, str],
        metrics: Mapping[str, float],
        tags: Mapping[str, str],
        files: Mapping[str, bytes],
    ) -> str:
        """Logs a run once; the same run again gives the same tracking run id."""
        ...


class Engine(Protocol):
    """Durable workflows."""

    def start(
        self,
        name: str,
        workflow_id: str,
        input: Document,  # noqa: A002
        *,
        queue: str = "",
    ) -> None: ...
    def send(self, workflow_id: str, topic: str, payload: Document, *, key: str = "") -> None: ...
    def cancel(self, workflow_id: str) -> None: ...
