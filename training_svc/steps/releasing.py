"""From a judged model to a registered version and to traffic."""

from __future__ import annotations

from dataclasses import dataclass

from training_svc.ports import Document, Registry, Serving
from training_svc.steps.job import Job

WINDOW_TAG = "modelyard.window_end"


@dataclass(frozen=True)
class Releasing:
    """The steps register and roll_out."""

    registry: Registry
    serving: Serving

    def register(
        self, job: Job, joined: Document, trained: Document, evaluated: Document, verdict: Document
    ) -> Document:
        """Registers the version with its lineage, whatever the gate says of it."""
        model = job.pipeline.model
        self.registry.ensure_model(model, job.pipeline.name, job.key("model"))
        version = _version(job, joined, trained, evaluated, verdict)
        name = self.registry.register(model, version, job.key("register"))
        return {"model_version": name, "detail": name}

    def choose(self, job: Job) -> Document:
        """Looks which version the endpoint serves before anything is done to it."""
        release = job.pipeline.release
        return {
            "serves": "" if release is None else self.serving.champion_version(release.endpoint)
        }

    def roll_out(self, job: Job, version: str, chosen: Document) -> Document:
        """Deploys the first version of an endpoint; starts the rollout of a later one."""
        release = job.pipeline.release
        if release is None:
            return {"rollout": "", "detail": "no release asked for"}
        if not chosen["serves"]:
            reason = f"{job.run.trigger.kind.value.lower()} run {job.run.id}"
            self.serving.deploy(release.endpoint, version, reason, job.key("deploy"))
            return {"rollout": "", "detail": f"deployed to {release.endpoint}"}
        rollout = self.serving.roll_out(
            release.endpoint, version, release.strategy, job.key("roll_out")
        )
        return {"rollout": rollout, "detail": rollout}


def _version(
    job: Job, joined: Document, trained: Document, evaluated: Document, verdict: Document
) -> Document:
    """The version as the registry takes it; made of results of steps alone, so always the same."""
    service = job.pipeline.data.feature_service
    artifacts = [
        ["model", f"model.{trained['format']}", trained["artifact"], trained["format"]],
        *(["source_model", name, artifact, kind] for name, kind, artifact in trained["files"]),
        *(["plot", name, artifact, "png"] for name, artifact in evaluated["plots"]),
        # A run that began under an earlier release has none.
        *([["sample", "sample.arrow", trained["sample"], "arrow"]] if "sample" in trained else []),
        ["holdout", "holdout.arrow", evaluated["holdout"], "arrow"],
    ]
    return {
        "artifacts": artifacts,
        "runtime": trained["runtime"],
        "inputs": trained["inputs"],
        "outputs": ["score"],
        "entity_keys": joined["entity_keys"],
        "feature_service": service,
        "metrics": evaluated["metrics"],
        "parameters": job.parameters,
        "gate": verdict,
        "parity_reports": trained.get("parity_reports", []),
        "lineage": {
            "pipeline_run": job.run.name,
            "tracking_run_id": evaluated["tracking_run_id"],
            "snapshot": joined["snapshot"],
            "training_set": joined["training_set"],
            "feature_service": service,
            "feature_definitions_hash": joined["definitions_hash"],
            "code_commit": trained["code_commit"],
            "environment_hash": trained["environment_hash"],
            "seed": job.pipeline.seed,
            "parent_version": trained["champion"],
        },
        "tags": {WINDOW_TAG: trained["window_end"]},
    }
