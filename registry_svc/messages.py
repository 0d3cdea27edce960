"""Contract messages to domain values and back."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from modelyard.data.v1 import data_pb2
from modelyard.registry.v1 import registry_pb2 as pb

from registry_svc.domain import (
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
    Signature,
    Stage,
    VersionArtifact,
)
from service_kit.errors import InvalidArgument
from service_kit.names import parse_name

EPOCH = datetime.fromtimestamp(0, UTC)
PARITY_FIELDS = tuple(
    name for name in ParityReport.__dataclass_fields__ if name not in ("source", "target")
)
LINEAGE_FIELDS = tuple(Lineage.__dataclass_fields__)


def model_to_message(model: Model) -> pb.Model:
    """Makes the contract's model."""
    message = pb.Model(
        name=model.name,
        description=model.description,
        owner=model.owner,
        tags=model.tags,
        aliases={alias: f"{model.name}/versions/{at}" for alias, at in model.aliases.items()},
        requires_approval=model.requires_approval,
        version_count=model.version_count,
    )
    message.create_time.FromDatetime(model.create_time)
    message.update_time.FromDatetime(model.update_time)
    return message


def model_from_message(model_id: str, message: pb.Model) -> Model:
    """Reads what a caller may set of a model."""
    return Model(
        id=model_id,
        description=message.description,
        owner=message.owner,
        tags=dict(message.tags),
        requires_approval=message.requires_approval,
        create_time=EPOCH,
        update_time=EPOCH,
    )


def version_to_message(version: ModelVersion) -> pb.ModelVersion:
    """Makes the contract's version."""
    message = pb.ModelVersion(
        name=version.name,
        stage=f"STAGE_{version.stage}",
        description=version.description,
        artifacts=[
            pb.VersionArtifact(
                role=each.role,
                filename=each.filename,
                artifact=f"artifacts/{each.sha256}",
                format=each.format,
            )
            for each in version.artifacts
        ],
        signature=_signature_to_message(version.signature),
        runtime=version.runtime,
        metrics=version.metrics,
        parameters=version.parameters,
        lineage=pb.Lineage(**{name: getattr(version.lineage, name) for name in LINEAGE_FIELDS}),
        gate=_gate_to_message(version.gate),
        tags=version.tags,
        aliases=version.aliases,
        creator=version.creator,
        parity_reports=[_parity_to_message(each) for each in version.parity_reports],
    )
    for review in version.reviews:
        added = message.reviews.add(
            approved=review.approved, reviewer=review.reviewer, comment=review.comment
        )
        added.review_time.FromDatetime(review.review_time)
    message.create_time.FromDatetime(version.create_time)
    return message


def version_from_message(model_id: str, message: pb.ModelVersion) -> ModelVersion:
    """Reads what a caller may set of a version."""
    return ModelVersion(
        model=model_id,
        number=0,
        create_time=EPOCH,
        creator="",
        description=message.description,
        artifacts=tuple(_artifacts_from_message(message.artifacts)),
        signature=_signature_from_message(message.signature),
        runtime=message.runtime,
        metrics=dict(message.metrics),
        parameters=dict(message.parameters),
        lineage=Lineage(**{name: getattr(message.lineage, name) for name in LINEAGE_FIELDS}),
        gate=_gate_from_message(message.gate),
        tags=dict(message.tags),
        parity_reports=tuple(_parity_from_message(message.parity_reports)),
    )


def _parity_to_message(report: ParityReport) -> pb.ParityReport:
    files = {
        name: f"artifacts/{sha256}"
        for name, sha256 in (("source", report.source), ("target", report.target))
        if sha256
    }
    figures = {name: getattr(report, name) for name in PARITY_FIELDS}
    return pb.ParityReport(**{**figures, **files})


def _parity_from_message(reports: Iterable[pb.ParityReport]) -> Iterable[ParityReport]:
    for at, each in enumerate(reports):
        files = {}
        for name in ("source", "target"):
            given = getattr(each, name)
            field = f"model_version.parity_reports[{at}].{name}"
            ids = parse_name("artifacts/{sha256}", given, field=field) if given else {"sha256": ""}
            files[name] = ids["sha256"]
        figures = {name: getattr(each, name) for name in PARITY_FIELDS}
        yield ParityReport(**{**figures, **files, "metric_changes": dict(each.metric_changes)})


def _artifacts_from_message(artifacts: Iterable[pb.VersionArtifact]) -> Iterable[VersionArtifact]:
    for at, each in enumerate(artifacts):
        field = f"model_version.artifacts[{at}].artifact"
        ids = parse_name("artifacts/{sha256}", each.artifact, field=field)
        yield VersionArtifact(each.role, each.filename, ids["sha256"], each.format)


def _signature_to_message(signature: Signature) -> data_pb2.Signature:
    field = data_pb2.InputField
    return data_pb2.Signature(
        inputs=[
            field(
                name=each.name,
                kind=f"KIND_{each.kind}",
                source=f"SOURCE_{each.source}",
                categories=each.categories,
                required=each.required,
            )
            for each in signature.inputs
        ],
        outputs=signature.outputs,
        entity_keys=signature.entity_keys,
        feature_service=signature.feature_service,
    )


def _signature_from_message(message: data_pb2.Signature) -> Signature:
    field = data_pb2.InputField
    inputs = (
        InputField(
            name=each.name,
            kind=field.Kind.Name(each.kind).removeprefix("KIND_"),
            source=field.Source.Name(each.source).removeprefix("SOURCE_"),
            categories=tuple(each.categories),
            required=each.required,
        )
        for each in message.inputs
    )
    return Signature(
        tuple(inputs), tuple(message.outputs), tuple(message.entity_keys), message.feature_service
    )


def _gate_to_message(gate: GateVerdict) -> pb.GateVerdict:
    return pb.GateVerdict(
        outcome=f"OUTCOME_{gate.outcome}",
        checks=[
            pb.GateCheck(
                check=each.check,
                passed=each.passed,
                value=each.value,
                lower=each.lower,
                upper=each.upper,
                threshold=each.threshold,
                detail=each.detail,
            )
            for each in gate.checks
        ],
        reasons=gate.reasons,
    )


def _gate_from_message(message: pb.GateVerdict) -> GateVerdict:
    outcome = pb.GateVerdict.Outcome.Name(message.outcome).removeprefix("OUTCOME_")
    checks = (
        GateCheck(c.check, c.passed, c.value, c.lower, c.upper, c.threshold, c.detail)
        for c in message.checks
    )
    return GateVerdict(GateOutcome(outcome), tuple(checks), tuple(message.reasons))


def stage_from_message(stage: int) -> Stage:
    """Reads a stage.

    Raises:
        InvalidArgument: It is not set or unknown.
    """
    name = pb.Stage.Name(stage) if stage in pb.Stage.values() else ""
    if name in ("", "STAGE_UNSPECIFIED"):
        raise InvalidArgument("INVALID_STAGE", "must be a stage", field="stage")
    return Stage(name.removeprefix("STAGE_"))


def artifact_to_message(artifact: Artifact) -> pb.Artifact:
    """Makes the contract's artifact."""
    message = pb.Artifact(name=f"artifacts/{artifact.sha256}", size_bytes=artifact.size_bytes)
    message.create_time.FromDatetime(artifact.create_time)
    return message


def audit_to_message(event: AuditEvent) -> pb.AuditEvent:
    """Makes the contract's audit event."""
    message = pb.AuditEvent(
        resource=event.resource, action=event.action, actor=event.actor, reason=event.reason
    )
    message.event_time.FromDatetime(event.event_time)
    return message
