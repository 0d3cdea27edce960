"""Models, versions and what hangs on them, as immutable values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum


class Stage(StrEnum):
    """Stage of a version in its life."""

    NONE = "NONE"
    STAGING = "STAGING"
    PRODUCTION = "PRODUCTION"
    ARCHIVED = "ARCHIVED"


class GateOutcome(StrEnum):
    """What a gate decided."""

    UNSPECIFIED = "UNSPECIFIED"
    PASSED = "PASSED"
    REFUSED = "REFUSED"


@dataclass(frozen=True, slots=True)
class Model:
    """A model: what all its versions have in common."""

    id: str
    create_time: datetime
    update_time: datetime
    description: str = ""
    owner: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    aliases: Mapping[str, int] = field(default_factory=dict)
    requires_approval: bool = False
    version_count: int = 0

    @property
    def name(self) -> str:
        """Resource name."""
        return f"models/{self.id}"


@dataclass(frozen=True, slots=True)
class VersionArtifact:
    """A file of a version; `sha256` is its content's hash in hex."""

    role: str
    filename: str
    sha256: str
    format: str


@dataclass(frozen=True, slots=True)
class InputField:
    """A column of the input matrix."""

    name: str
    kind: str
    source: str
    categories: tuple[str, ...] = ()
    required: bool = False


@dataclass(frozen=True, slots=True)
class Signature:
    """Inputs and outputs of a model, in order."""

    inputs: tuple[InputField, ...] = ()
    outputs: tuple[str, ...] = ()
    entity_keys: tuple[str, ...] = ()
    feature_service: str = ""


@dataclass(frozen=True, slots=True)
class Lineage:
    """Everything that is needed to train the version again."""

    pipeline_run: str = ""
    tracking_run_id: str = ""
    snapshot: str = ""
    training_set: str = ""
    feature_service: str = ""
    feature_definitions_hash: str = ""
    code_commit: str = ""
    environment_hash: str = ""
    seed: int = 0
    parent_version: str = ""


@dataclass(frozen=True, slots=True)
class GateCheck:
    """One check of a gate; `lower` and `upper` bound the confidence interval of `value`."""

    check: str
    passed: bool
    value: float
    lower: float
    upper: float
    threshold: float
    detail: str


@dataclass(frozen=True, slots=True)
class GateVerdict:
    """What a gate said about a version."""

    outcome: GateOutcome = GateOutcome.UNSPECIFIED
    checks: tuple[GateCheck, ...] = ()
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ParityReport:
    """How a file was made of another one, and how far their answers differ on a sample.

    Attributes:
        method: `onnx` or `int8_dynamic`.
        source: sha256 of the file it was made of, in hex; empty when not kept.
        target: sha256 of the file that was made, in hex; empty when there is none.
        passed: Whether the target may stand for the source.
        max_abs_diff: Largest absolute difference of any output; so `mean_abs_diff`.
        share_beyond: Share of rows that differ by more than `tolerance`.
        metric_changes: From source to target, on the sample.
    """

    method: str
    source: str
    target: str
    passed: bool
    reason: str
    row_count: int
    max_abs_diff: float
    mean_abs_diff: float
    share_beyond: float
    tolerance: float
    max_share_beyond: float
    source_bytes: int
    target_bytes: int
    metric_changes: Mapping[str, float] = field(default_factory=dict)

    @property
    def holds(self) -> bool:
        """Whether the figures bear out that it passed."""
        return self.row_count > 0 and self.share_beyond <= self.max_share_beyond


@dataclass(frozen=True, slots=True)
class Review:
    """A person's word on a version."""

    approved: bool
    reviewer: str
    comment: str
    review_time: datetime


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """One trained model. All but `stage`, `reviews` and `aliases` never changes."""

    model: str
    number: int
    create_time: datetime
    creator: str
    stage: Stage = Stage.NONE
    description: str = ""
    artifacts: tuple[VersionArtifact, ...] = ()
    signature: Signature = field(default_factory=Signature)
    runtime: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    parameters: Mapping[str, str] = field(default_factory=dict)
    lineage: Lineage = field(default_factory=Lineage)
    gate: GateVerdict = field(default_factory=GateVerdict)
    tags: Mapping[str, str] = field(default_factory=dict)
    reviews: tuple[Review, ...] = ()
    aliases: tuple[str, ...] = ()
    parity_reports: tuple[ParityReport, ...] = ()

    @property
    def name(self) -> str:
        """Resource name."""
        return f"models/{self.model}/versions/{self.number}"


@dataclass(frozen=True, slots=True)
class Artifact:
    """Content that is addressed by its hash."""

    sha256: str
    size_bytes: int
    create_time: datetime


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """Who changed what, and why."""

    resource: str
    action: str
    actor: str
    reason: str
    event_time: datetime
