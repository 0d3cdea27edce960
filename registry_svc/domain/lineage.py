"""Where a version comes from, as a graph from data to model."""

from __future__ import annotations

from dataclasses import dataclass

from registry_svc.domain.models import ModelVersion


@dataclass(frozen=True, slots=True)
class LineageGraph:
    """Resources with their kind, and which was made from which."""

    nodes: tuple[tuple[str, str], ...]
    edges: tuple[tuple[str, str], ...]


def lineage_graph(version: ModelVersion) -> LineageGraph:
    """Draws the lineage of a version; what is not known is left out.

    The edges run from source to result: data source's snapshot and feature service to training
    set, from there to the version; code, environment and the champion of that day feed the
    version as well.
    """
    known = version.lineage
    commit = f"commit:{known.code_commit}" if known.code_commit else ""
    environment = f"environment:{known.environment_hash}" if known.environment_hash else ""
    tracking = f"mlflow:{known.tracking_run_id}" if known.tracking_run_id else ""
    kinds = {
        known.snapshot: "snapshot",
        known.feature_service: "feature_service",
        known.training_set: "training_set",
        known.pipeline_run: "pipeline_run",
        tracking: "tracking_run",
        commit: "code",
        environment: "environment",
        known.parent_version: "model_version",
        version.name: "model_version",
    }
    for artifact in version.artifacts:
        kinds[f"artifacts/{artifact.sha256}"] = "artifact"
    edges = [
        (known.snapshot, known.training_set),
        (known.feature_service, known.training_set),
        (known.training_set, known.pipeline_run),
        (commit, known.pipeline_run),
        (environment, known.pipeline_run),
        (known.parent_version, known.pipeline_run),
        (known.pipeline_run, tracking),
        (known.pipeline_run, version.name),
        *(
            (f"artifacts/{each.source}", f"artifacts/{each.target}")
            for each in version.parity_reports
            if each.source and each.target
        ),
        *((version.name, f"artifacts/{each.sha256}") for each in version.artifacts),
    ]
    return LineageGraph(
        nodes=tuple((name, kind) for name, kind in kinds.items() if name),
        edges=tuple(dict.fromkeys(edge for edge in edges if all(edge))),
    )
