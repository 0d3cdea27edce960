"""What a version must be to be registered, and where it may go from there."""

from __future__ import annotations

import math
import re

from registry_svc.domain.models import GateOutcome, Model, ModelVersion, Signature, Stage
from service_kit.errors import FailedPrecondition, InvalidArgument

SHA256 = re.compile(r"[0-9a-f]{64}")
MODEL_ROLE = "model"

ALLOWED: dict[Stage, frozenset[Stage]] = {
    Stage.NONE: frozenset({Stage.STAGING, Stage.PRODUCTION, Stage.ARCHIVED}),
    Stage.STAGING: frozenset({Stage.NONE, Stage.PRODUCTION, Stage.ARCHIVED}),
    Stage.PRODUCTION: frozenset({Stage.STAGING, Stage.ARCHIVED}),
    # Back to production: that is a rollback.
    Stage.ARCHIVED: frozenset({Stage.STAGING, Stage.PRODUCTION}),
}


def check_new_version(version: ModelVersion) -> None:
    """Refuses a version that could never be served or compared.

    Raises:
        InvalidArgument: Names the field at fault.
    """
    roles = [each.role for each in version.artifacts]
    if roles.count(MODEL_ROLE) != 1:
        raise InvalidArgument(
            "MODEL_ARTIFACT_MISSING",
            "exactly one artifact must have the role `model`",
            field="model_version.artifacts",
        )
    for at, artifact in enumerate(version.artifacts):
        if SHA256.fullmatch(artifact.sha256) is None:
            raise InvalidArgument(
                "INVALID_NAME",
                "must have the form artifacts/{sha256}",
                field=f"model_version.artifacts[{at}].artifact",
            )
    if not version.runtime:
        raise InvalidArgument("RUNTIME_MISSING", "must be set", field="model_version.runtime")
    for metric, value in version.metrics.items():
        if not math.isfinite(value):
            raise InvalidArgument(
                "NOT_FINITE", "must be finite", field=f"model_version.metrics.{metric}"
            )
    check_signature(version.signature)


def check_signature(signature: Signature) -> None:
    """Refuses a signature with no inputs, no outputs or ambiguous ones."""
    if not signature.inputs or not signature.outputs:
        raise InvalidArgument(
            "SIGNATURE_EMPTY", "inputs and outputs must be set", field="model_version.signature"
        )
    names = [each.name for each in signature.inputs]
    if len(set(names)) != len(names):
        raise InvalidArgument(
            "DUPLICATE_INPUT", "names must be unique", field="model_version.signature.inputs"
        )
    looked_up = any(each.source == "FEATURE" for each in signature.inputs)
    if looked_up and not signature.feature_service:
        raise InvalidArgument(
            "FEATURE_SERVICE_MISSING",
            "must be set when an input is looked up",
            field="model_version.signature.feature_service",
        )


def is_approved(version: ModelVersion) -> bool:
    """Whether the last word on a version is an approval."""
    return bool(version.reviews) and version.reviews[-1].approved


def check_transition(model: Model, version: ModelVersion, to: Stage) -> None:
    """Refuses a stage that a version may not enter.

    Raises:
        FailedPrecondition: `TRANSITION_NOT_ALLOWED`, `GATE_REFUSED` or `APPROVAL_MISSING`.
    """
    if to is version.stage:
        return
    if to not in ALLOWED[version.stage]:
        raise FailedPrecondition(
            "TRANSITION_NOT_ALLOWED", f"{version.stage} can't become {to}", field="stage"
        )
    if to is not Stage.PRODUCTION:
        return
    if version.gate.outcome is GateOutcome.REFUSED and not is_approved(version):
        raise FailedPrecondition(
            "GATE_REFUSED",
            "the gate refused this version; a person may overrule it with a review",
            field="stage",
        )
    if model.requires_approval and not is_approved(version):
        raise FailedPrecondition(
            "APPROVAL_MISSING", "this version must be approved by a review first", field="stage"
        )
