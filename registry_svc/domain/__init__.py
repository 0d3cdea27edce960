"""The registry's rules: what a model and a version are, and what may become of them."""

from registry_svc.domain.card import model_card
from registry_svc.domain.lineage import LineageGraph, lineage_graph
from registry_svc.domain.models import (
    Artifact,
    AuditEvent,
    GateCheck,
    GateOutcome,
    GateVerdict,
    InputField,
    Lineage,
    Model,
    ModelVersion,
    ParityReport,
    Review,
    Signature,
    Stage,
    VersionArtifact,
)
from registry_svc.domain.rules import check_new_version, check_transition, is_approved

__all__ = [
    "Artifact",
    "AuditEvent",
    "GateCheck",
    "GateOutcome",
    "GateVerdict",
    "InputField",
    "Lineage",
    "LineageGraph",
    "Model",
    "ModelVersion",
    "ParityReport",
    "Review",
    "Signature",
    "Stage",
    "VersionArtifact",
    "check_new_version",
    "check_transition",
    "is_approved",
    "lineage_graph",
    "model_card",
]
