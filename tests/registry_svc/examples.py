"""Examples of models and versions."""

from __future__ import annotations

from datetime import UTC, datetime

from modelyard.registry.v1 import registry_pb2 as pb

from registry_svc.domain import (
    GateOutcome,
    GateVerdict,
    InputField,
    Lineage,
    Model,
    ModelVersion,
    Signature,
    VersionArtifact,
)

WHEN = datetime(2013, 4, 1, tzinfo=UTC)
HASH = "ab" * 32


def model(**changes: object) -> Model:
    """A model."""
    fields = {"id": "late-arrival", "create_time": WHEN, "update_time": WHEN, **changes}
    return Model(**fields)  # type: ignore[arg-type]


def version(**changes: object) -> ModelVersion:
    """A version that may be registered."""
    fields = {
        "model": "late-arrival",
        "number": 3,
        "create_time": WHEN,
        "creator": "keys/admin",
        "artifacts": (VersionArtifact("model", "model.onnx", HASH, "onnx"),),
        "signature": Signature(
            (InputField("temp", "NUMERIC", "FEATURE", (), False),),
            ("score",),
            ("origin",),
            "featureServices/flights",
        ),
        "runtime": "onnx",
        "metrics": {"pr_auc": 0.548},
        "lineage": Lineage(
            pipeline_run="pipelines/late/runs/1",
            snapshot="snapshots/s",
            training_set="trainingSets/t",
            feature_service="featureServices/flights",
            code_commit="c0ffee",
            seed=7,
        ),
        "gate": GateVerdict(GateOutcome.PASSED, (), ("gained 0.02",)),
        **changes,
    }
    return ModelVersion(**fields)  # type: ignore[arg-type]


def version_message(artifact: str) -> pb.ModelVersion:
    """The same as a message."""
    message = pb.ModelVersion(runtime="onnx", metrics={"pr_auc": 0.5})
    message.artifacts.add(role="model", filename="m.onnx", artifact=artifact, format="onnx")
    message.signature.inputs.add(name="temp", kind="KIND_NUMERIC", source="SOURCE_REQUEST")
    message.signature.outputs.append("score")
    message.lineage.pipeline_run = "pipelines/late/runs/1"
    message.gate.outcome = pb.GateVerdict.OUTCOME_PASSED
    message.gate.reasons.append("first version")
    return message
