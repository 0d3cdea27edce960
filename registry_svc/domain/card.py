"""The model card: what one should know before using a version.

After Mitchell et al., "Model Cards for Model Reporting", FAT* 2019.
"""

from __future__ import annotations

from collections.abc import Iterable

from registry_svc.domain.models import Model, ModelVersion


def model_card(model: Model, version: ModelVersion) -> str:
    """Writes the card of a version as Markdown."""
    sections = [
        [f"# {model.id}, version {version.number}", model.description or "No description yet."],
        ["## Details", *bullets(_details(model, version))],
        ["## Inputs", *_inputs(version)],
        ["## Metrics on the holdout", *_numbers(version)],
        ["## Gate", *_gate(version)],
        ["## Conversion", *_conversion(version)],
        ["## Parameters", *bullets(sorted(version.parameters.items()))],
        ["## Lineage", *bullets(_lineage(version))],
        ["## Reviews", *_reviews(version)],
    ]
    return "\n\n".join("\n".join(section) for section in sections) + "\n"


def bullets(pairs: Iterable[tuple[str, str]]) -> list[str]:
    """Formats pairs as a list; says so when there are none."""
    lines = [f"- **{name}**: {value}" for name, value in pairs if value]
    return lines or ["None recorded."]


def _details(model: Model, version: ModelVersion) -> list[tuple[str, str]]:
    return [
        ("Owner", model.owner),
        ("Stage", version.stage.value),
        ("Aliases", ", ".join(version.aliases)),
        ("Runtime", version.runtime),
        ("Registered", f"{version.create_time:%Y-%m-%d %H:%M} UTC by {version.creator}"),
        ("About", version.description),
    ]


def _inputs(version: ModelVersion) -> list[str]:
    rows = [
        f"| {each.name} | {each.kind.lower()} | {each.source.lower()} | "
        f"{'yes' if each.required else 'no'} |"
        for each in version.signature.inputs
    ]
    return ["| input | kind | source | required |", "| --- | --- | --- | --- |", *rows]


def _numbers(version: ModelVersion) -> list[str]:
    rows = [f"| {name} | {value:.5g} |" for name, value in sorted(version.metrics.items())]
    return ["| metric | value |", "| --- | --- |", *rows] if rows else ["None recorded."]


def _gate(version: ModelVersion) -> list[str]:
    checks = [
        f"- {'passed' if each.passed else 'refused'}: {each.check}, {each.detail}"
        for each in version.gate.checks
    ]
    return [f"Outcome: {version.gate.outcome.value.lower()}", *version.gate.reasons, *checks]


def _conversion(version: ModelVersion) -> list[str]:
    lines = [
        f"- {each.method}: {'passed' if each.passed else 'refused'}, {each.reason}"
        for each in version.parity_reports
    ]
    return lines or ["None recorded."]


def _lineage(version: ModelVersion) -> list[tuple[str, str]]:
    known = version.lineage
    return [
        ("Training set", known.training_set),
        ("Snapshot", known.snapshot),
        ("Features", known.feature_service),
        ("Pipeline run", known.pipeline_run),
        ("Code", known.code_commit),
        ("Environment", known.environment_hash),
        ("Seed", str(known.seed)),
    ]


def _reviews(version: ModelVersion) -> list[str]:
    lines = [
        f"- {'approved' if each.approved else 'rejected'} by {each.reviewer} on "
        f"{each.review_time:%Y-%m-%d}: {each.comment}"
        for each in version.reviews
    ]
    return lines or ["None."]
