"""What the use cases need from outside, as small protocols."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from training_svc.domain.conversions import Conversion
from training_svc.domain.encoding import Input
from training_svc.domain.pipelines import Pipeline, PipelineRun, TrainerSpec
from training_svc.trainers import Fitted

Document: TypeAlias = dict[str, Any]
Check: TypeAlias = Callable[[], None]


class Records(Protocol):
    """Pipelines, runs and conversions, within one transaction."""

    def pipeline(self, pipeline_id: str) -> Pipeline | None: ...
    def pipelines(self, after: str, limit: int) -> list[Pipeline]: ...
    def save_pipeline(self, pipeline: Pipeline) -> None: ...
    def delete_pipeline(self, pipeline_id: str) -> None: ...
    def run(self, run_id: str, *, to_change: bool = False) -> PipelineRun | None:
        """Gets a run; `to_change` keeps other writers away from it until the transaction ends."""
        ...

    def runs(self, pipeline_id: str, below: str, limit: int) -> list[PipelineRun]: ...
    def unfinished_runs(self) -> list[PipelineRun]: ...
    def add_run(self, run: PipelineRun, pipeline: Pipeline) -> None:
        """Records a run with its pipeline as it is now."""
        ...

    def run_pipeline(self, run_id: str) -> Pipeline:
        """The pipeline of a run as it was when the run was asked for."""
        ...

    def save_run(self, run: PipelineRun) -> None: ...
    def conversion(self, conversion_id: str, *, to_change: bool = False) -> Conversion | None:
        """Gets a conversion; `to_change` as for runs."""
        ...

    def conversions(self, below: str, limit: int) -> list[Conversion]: ...
    def unfinished_conversions(self) -> list[Conversion]: ...
    def save_conversion(self, conversion: Conversion) -> None: ...


class Store(Protocol):
    """Opens transactions."""

    def transaction(self) -> AbstractContextManager[Records]: ...
    def reading(self) -> AbstractContextManager[Records]:
        """A transaction that changes nothing and waits for nobody."""
        ...


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
    """A version as far as a run needs it; `window_end` None when not recorded."""

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

    def read(self, artifact: str, most_bytes: int = ...) -> bytes:
        """Reads stored content of at most so many bytes."""
        ...

    def champion(self, model: str) -> Champion | None: ...
    def version(self, name: str) -> Champion: ...
    def ensure_model(self, model: str, owner: str, request_id: str) -> None: ...
    def register(self, model: str, version: Document, request_id: str) -> str: ...


class Serving(Protocol):
    """The serving service."""

    def champion_version(self, endpoint: str) -> str:
        """The version that an endpoint serves; empty when there is none yet."""
        ...

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
        check: Check,
    ) -> Fitted:
        """Fits a trainer; `check` is called now and then and raises when the run should stop."""
        ...


Score: TypeAlias = Callable[[NDArray[np.float32]], NDArray[np.float64]]
"""From n x inputs rows to n scores, or n x outputs of more than one; from one thread at a time."""

LoadModel: TypeAlias = Callable[[str, bytes, int], Score]
"""Loads a model file of so many inputs by a runtime plugin."""


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
    def status(self, workflow_id: str) -> str:
        """`ENQUEUED`, `RUNNING`, `SUCCEEDED`, `FAILED` or `CANCELLED`; raises NotFound."""
        ...

    def cancel(self, workflow_id: str) -> None: ...
