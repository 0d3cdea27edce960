"""A version as a JSON document and back."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import Any

from registry_svc.domain import (
    GateCheck,
    GateOutcome,
    GateVerdict,
    InputField,
    Lineage,
    ModelVersion,
    ParityReport,
    Review,
    Signature,
    Stage,
    VersionArtifact,
)


def to_document(version: ModelVersion) -> dict[str, Any]:
    """Makes a JSON document of a version."""
    document = asdict(version)
    document["create_time"] = version.create_time.isoformat()
    document["reviews"] = [
        {**asdict(each), "review_time": each.review_time.isoformat()} for each in version.reviews
    ]
    del document["aliases"]
    return document


def from_document(document: dict[str, Any]) -> ModelVersion:
    """Reads a version from its document."""
    gate, signature = document["gate"], document["signature"]
    return ModelVersion(
        **{
            **document,
            "create_time": datetime.fromisoformat(document["create_time"]),
            "stage": Stage(document["stage"]),
            "artifacts": tuple(VersionArtifact(**each) for each in document["artifacts"]),
            "signature": _signature(signature),
            "lineage": Lineage(**document["lineage"]),
            "gate": GateVerdict(
                GateOutcome(gate["outcome"]),
                tuple(GateCheck(**each) for each in gate["checks"]),
                tuple(gate["reasons"]),
            ),
            # Documents of earlier days have none.
            "parity_reports": tuple(
                ParityReport(**each) for each in document.get("parity_reports", ())
            ),
            "reviews": tuple(_review(each) for each in document["reviews"]),
        }
    )


def _signature(document: dict[str, Any]) -> Signature:
    inputs = (
        InputField(**{**each, "categories": tuple(each["categories"])})
        for each in document["inputs"]
    )
    return Signature(
        tuple(inputs),
        tuple(document["outputs"]),
        tuple(document["entity_keys"]),
        document["feature_service"],
    )


def _review(document: dict[str, Any]) -> Review:
    when = datetime.fromisoformat(document["review_time"])
    return Review(document["approved"], document["reviewer"], document["comment"], when)
