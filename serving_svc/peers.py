"""The registry and the judge, as their gRPC contracts offer them."""

from __future__ import annotations

from google.protobuf.duration_pb2 import Duration
from modelyard.experiments.v1 import experiments_pb2, experiments_pb2_grpc
from modelyard.registry.v1 import registry_pb2, registry_pb2_grpc

from service_kit.channels import Peers, calling
from service_kit.errors import FailedPrecondition
from serving_svc.domain import Decision, Look, ModelVersion, Rollout

_MODEL_ROLE = "model"
_DECISIONS = {
    experiments_pb2.DECISION_SHIP: Decision.SHIP,
    experiments_pb2.DECISION_ROLLBACK: Decision.ROLLBACK,
    experiments_pb2.DECISION_INCONCLUSIVE: Decision.INCONCLUSIVE,
}


class GrpcRegistry:
    """Versions, stages and aliases."""

    def __init__(self, peers: Peers) -> None:
        self._peers = peers

    def version(self, name: str) -> ModelVersion:
        """A version by its name or an alias; raises what the registry raises."""
        request = registry_pb2.GetModelVersionRequest(name=name)
        with calling("registry"):
            found = self._stub().GetModelVersion(request)
        model = next((each for each in found.artifacts if each.role == _MODEL_ROLE), None)
        return ModelVersion(
            name=found.name,
            runtime=found.runtime,
            artifact=model.artifact.removeprefix("artifacts/") if model else "",
            inputs=len(found.signature.inputs),
            outputs=len(found.signature.outputs),
            signature=found.signature.SerializeToString(deterministic=True),
            format=model.format if model else "",
        )

    def set_alias(self, model: str, alias: str, version: str, reason: str, request_id: str) -> None:
        """Point an alias of a model at a version."""
        request = registry_pb2.SetModelAliasRequest(
            name=f"{model}/aliases/{alias}",
            model_version=version,
            reason=reason,
            request_id=request_id,
        )
        with calling("registry"):
            self._stub().SetModelAlias(request)

    def transition(self, version: str, stage: str, reason: str, request_id: str) -> None:
        """Move a version to a stage: `NONE`, `STAGING`, `PRODUCTION` or `ARCHIVED`."""
        request = registry_pb2.TransitionModelVersionRequest(
            name=version,
            stage=f"STAGE_{stage}",
            reason=reason,
            request_id=request_id,
        )
        with calling("registry"):
            self._stub().TransitionModelVersion(request)

    def _stub(self) -> registry_pb2_grpc.RegistryServiceStub:
        return registry_pb2_grpc.RegistryServiceStub(self._peers.channel("registry"))


class GrpcExperiments:
    """Experiments that judge rollouts."""

    def __init__(self, peers: Peers) -> None:
        self._peers = peers

    def create(self, rollout: Rollout, *, paired: bool, request_id: str) -> str:
        """Create the experiment of a rollout; gives its name."""
        request = experiments_pb2.CreateExperimentRequest(
            experiment_id=f"rollout-{rollout.rollout_id}",
            experiment=_experiment(rollout, paired),
            request_id=request_id,
        )
        with calling("experiments"):
            return str(self._stub().CreateExperiment(request).name)

    def analyze(self, experiment: str, *, count_control: bool) -> Look:
        """Look at the data; `count_control` counts the champion's samples alone."""
        request = experiments_pb2.AnalyzeExperimentRequest(name=experiment)
        with calling("experiments"):
            found = self._stub().AnalyzeExperiment(request)
        samples = found.primary.control_samples if count_control else found.samples
        return Look(
            decision=_DECISIONS.get(found.decision, Decision.CONTINUE),
            reasons=tuple(found.reasons),
            samples=samples,
        )

    def conclude(self, experiment: str, conclusion: str, request_id: str) -> None:
        """End an experiment; one that has ended already stays as it is."""
        request = experiments_pb2.ConcludeExperimentRequest(
            name=experiment, conclusion=conclusion, request_id=request_id
        )
        try:
            with calling("experiments"):
                self._stub().ConcludeExperiment(request)
        except FailedPrecondition:
            return

    def _stub(self) -> experiments_pb2_grpc.ExperimentServiceStub:
        return experiments_pb2_grpc.ExperimentServiceStub(self._peers.channel("experiments"))


def _experiment(rollout: Rollout, paired: bool) -> experiments_pb2.Experiment:
    strategy = rollout.strategy
    control, treatment = rollout.arms
    design = "DESIGN_PAIRED" if paired else "DESIGN_RANDOMIZED"
    return experiments_pb2.Experiment(
        hypothesis=(
            f"{rollout.model_version} answers better than {rollout.champion_version}, "
            f"or worse by {strategy.margin:g} of {strategy.primary_metric} at most"
        ),
        subject=rollout.name,
        arms=[
            experiments_pb2.Arm(arm=control, weight=50.0),
            experiments_pb2.Arm(arm=treatment, weight=50.0),
        ],
        design=design,
        primary=experiments_pb2.MetricSpec(
            metric=strategy.primary_metric,
            higher_is_better=strategy.primary_metric == "outcome_mean",
        ),
        guardrails=[
            experiments_pb2.Guardrail(
                metric=experiments_pb2.MetricSpec(metric="error_rate"),
                max_value=strategy.max_error_rate,
            ),
            experiments_pb2.Guardrail(
                metric=experiments_pb2.MetricSpec(metric="latency"),
                max_ratio=strategy.max_latency_ratio,
            ),
        ],
        rule=experiments_pb2.DecisionRule(
            alpha=strategy.alpha,
            margin=strategy.margin,
            min_samples=strategy.step_min_samples,
            max_samples=strategy.max_samples,
        ),
        max_outcome_delay=Duration(seconds=90 * 86_400),
    )
