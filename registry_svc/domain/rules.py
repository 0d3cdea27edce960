"""What a version must be to be registered, and where it may go from there."""

from __future__ import annotations

import math
import re

from registry_svc.domain.models import (
    GateOutcome,
    Model,
    ModelVersion,
    ParityReport,
    Signature,
    Stage,
)
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
    check_parity(version)


def check_parity(version: ModelVersion) -> None:
    """Refuses a version that would serve a file whose answers are not those of its source.

    Raises:
        InvalidArgument: A report is inconsistent, or names a file that the version does not have.
        FailedPrecondition: `CONVERSION_DIFFERS`.
    """
    files = {each.sha256 for each in version.artifacts}
    serving = next(each.sha256 for each in version.artifacts if each.role == MODEL_ROLE)
    for at, report in enumerate(version.parity_reports):
        field = f"model_version.parity_reports[{at}]"
        for name, value in _figures(report).items():
            if not (math.isfinite(value) and (name in report.metric_changes or value >= 0)):
                raise InvalidArgument(
                    "OUT_OF_RANGE", "must be finite and not negative", field=f"{field}.{name}"
                )
        for name, sha256 in (("source", report.source), ("target", report.target)):
            if sha256 and sha256 not in files:
                raise InvalidArgument(
                    "NOT_AN_ARTIFACT",
                    "must be one of the version's artifacts",
                    field=f"{field}.{name}",
                )
        if report.passed and not report.holds:
            raise InvalidArgument(
                "REPORT_CONTRADICTS_ITSELF",
                "says passed, and more rows differ than may",
                field=f"{field}.passed",
            )
        if report.target == serving and not report.passed:
            raise FailedPrecondition(
                "CONVERSION_DIFFERS",
                f"the file that would serve differs from its source by up to "
                f"{report.max_abs_diff:.2g}, in {report.share_beyond:.2%} of the rows by more than "
                f"{report.tolerance:g}",
                field=field,
            )


def _figures(report: ParityReport) -> dict[str, float]:
    names = ("max_abs_diff", "mean_abs_diff", "share_beyond", "tolerance", "max_share_beyond")
    counts = ("row_count", "source_bytes", "target_bytes")
    return {name: getattr(report, name) for name in names + counts} | dict(report.metric_changes)


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
