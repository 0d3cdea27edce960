"""Pipelines and their runs, as immutable values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any


class RunState(StrEnum):
    """Life of a run."""

    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    AWAITING_APPROVAL = "AWAITING_APPROVAL"
    SUCCEEDED = "SUCCEEDED"
    REFUSED = "REFUSED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    @property
    def ended(self) -> bool:
        """Whether nothing more happens in this state."""
        return self in ENDED


ENDED = frozenset({RunState.SUCCEEDED, RunState.REFUSED, RunState.FAILED, RunState.CANCELLED})


class StepState(StrEnum):
    """Life of a step."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    DONE = "DONE"
    FAILED = "FAILED"
    SKIPPED = "SKIPPED"


class TriggerKind(StrEnum):
    """Why a run was started."""

    MANUAL = "MANUAL"
    SCHEDULE = "SCHEDULE"
    DRIFT = "DRIFT"
    DATA = "DATA"
    CODE = "CODE"


STEPS = (
    "validate",
    "snapshot",
    "features",
    "train",
    "evaluate",
    "compare",
    "register",
    "roll_out",
)


@dataclass(frozen=True, slots=True)
class DataSpec:
    """Data that a pipeline learns from; `lookback` None means from the first row on."""

    label_source: str
    label_column: str
    feature_service: str
    label_time_column: str = ""
    request_features: tuple[str, ...] = ()
    categorical_features: tuple[str, ...] = ()
    optional_features: tuple[str, ...] = ()
    lookback: timedelta | None = None


@dataclass(frozen=True, slots=True)
class DataCheck:
    """A check of the data by a validator plugin."""

    validator: str
    column: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TrainerSpec:
    """A trainer plugin with its settings."""

    trainer: str
    config: Mapping[str, Any] = field(default_factory=dict)
    cpus: float = 1.0
    gpus: float = 0.0


@dataclass(frozen=True, slots=True)
class EvaluationSpec:
    """How versions are compared; `holdout` None means a fifth of the window."""

    primary_metric: str = "pr_auc"
    holdout: timedelta | None = None
    segments: tuple[str, ...] = ()
    resamples: int = 500
    refit: bool = False


@dataclass(frozen=True, slots=True)
class ConversionSpec:
    """How the file that serves is made of the trained model.

    Attributes:
        tolerance: Absolute difference of a row's score that the conversion to ONNX may make.
        max_share_beyond: Share of the sample's rows, 0 to 1, that may differ by more.
        quantize: Whether to quantize the ONNX file to INT8.
        quantize_tolerance: As `tolerance`, for the quantization.
        quantize_max_share_beyond: As `max_share_beyond`, for the quantization.
    """

    tolerance: float = 1e-4
    max_share_beyond: float = 0.0
    quantize: bool = False
    quantize_tolerance: float = 0.02
    quantize_max_share_beyond: float = 0.01


@dataclass(frozen=True, slots=True)
class MetricBound:
    """A bound that a version must keep whatever it gains."""

    metric: str
    minimum: float | None = None
    maximum: float | None = None


@dataclass(frozen=True, slots=True)
class GateSpec:
    """When a version is good enough."""

    min_gain: float = 0.0
    confidence: float = 0.95
    bounds: tuple[MetricBound, ...] = ()
    max_segment_loss: float = 0.0
    requires_approval: bool = False


@dataclass(frozen=True, slots=True)
class ReleaseSpec:
    """Where a good version goes; `strategy` is passed on as it is."""

    endpoint: str
    strategy: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Pipeline:
    """How a model is made, from data to traffic."""

    id: str
    model: str
    data: DataSpec
    trainer: TrainerSpec
    create_time: datetime
    update_time: datetime
    description: str = ""
    checks: tuple[DataCheck, ...] = ()
    evaluation: EvaluationSpec = field(default_factory=EvaluationSpec)
    gate: GateSpec = field(default_factory=GateSpec)
    conversion: ConversionSpec = field(default_factory=ConversionSpec)
    release: ReleaseSpec | None = None
    schedule: str = ""
    seed: int = 0

    @property
    def name(self) -> str:
        """Resource name."""
        return f"pipelines/{self.id}"


@dataclass(frozen=True, slots=True)
class Trigger:
    """Why a run was started; `source` is the resource that caused it."""

    kind: TriggerKind = TriggerKind.MANUAL
    reason: str = ""
    source: str = ""


@dataclass(frozen=True, slots=True)
class StepRecord:
    """A step of a run."""

    step: str
    state: StepState = StepState.PENDING
    detail: str = ""
    start_time: datetime | None = None
    end_time: datetime | None = None
    attempts: int = 0


@dataclass(frozen=True, slots=True)
class PipelineRun:
    """A run of a pipeline. `gate` is the verdict as a document, empty before `compare`."""

    id: str
    pipeline: str
    trigger: Trigger
    window_end: datetime
    create_time: datetime
    window_start: datetime | None = None
    state: RunState = RunState.QUEUED
    steps: tuple[StepRecord, ...] = tuple(StepRecord(step) for step in STEPS)
    trainer_config: Mapping[str, Any] = field(default_factory=dict)
    snapshot: str = ""
    training_set: str = ""
    model_version: str = ""
    gate: Mapping[str, Any] = field(default_factory=dict)
    rollout: str = ""
    tracking_run_id: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    champion_metrics: Mapping[str, float] = field(default_factory=dict)
    end_time: datetime | None = None
    reason: str = ""

    @property
    def name(self) -> str:
        """Resource name."""
        return f"pipelines/{self.pipeline}/runs/{self.id}"

    def step(self, name: str) -> StepRecord:
        """Gets a step by its name."""
        return next(each for each in self.steps if each.step == name)


def ended(run: PipelineRun, state: RunState, reason: str, now: datetime) -> PipelineRun:
    """A run that has come to its end: what was not begun is skipped, what was under way failed."""
    steps = tuple(_ended_step(each, now) for each in run.steps)
    return replace(run, state=state, steps=steps, reason=reason, end_time=now)


def _ended_step(step: StepRecord, now: datetime) -> StepRecord:
    if step.state is StepState.PENDING:
        return replace(step, state=StepState.SKIPPED)
    if step.state is StepState.RUNNING:
        return replace(step, state=StepState.FAILED, detail="stopped", end_time=now)
    return step
