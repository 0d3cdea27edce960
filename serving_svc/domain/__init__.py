"""The rules of serving: endpoints, traffic tables, deployments and rollouts."""

from serving_svc.domain.deployments import (
    AppState,
    AppStatus,
    Deployment,
    ModelVersion,
    Plan,
    Replica,
    app_name,
)
from serving_svc.domain.endpoints import Endpoint, EndpointState
from serving_svc.domain.formats import RuntimeFacts, check_code, check_format
from serving_svc.domain.rollouts import (
    Action,
    Decision,
    Look,
    Rollout,
    RolloutEvent,
    RolloutState,
    Stage,
    Strategy,
    Verdict,
)
from serving_svc.domain.traffic import Change, TrafficTable, Variant, variant_name

__all__ = [
    "Action",
    "AppState",
    "AppStatus",
    "Change",
    "Decision",
    "Deployment",
    "Endpoint",
    "EndpointState",
    "Look",
    "ModelVersion",
    "Plan",
    "Replica",
    "Rollout",
    "RolloutEvent",
    "RolloutState",
    "RuntimeFacts",
    "Stage",
    "Strategy",
    "TrafficTable",
    "Variant",
    "Verdict",
    "app_name",
    "check_code",
    "check_format",
    "variant_name",
]
