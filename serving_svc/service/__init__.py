"""Use cases of serving."""

from serving_svc.service.autoscaler import Autoscaler
from serving_svc.service.dataplane import DataPlane, DataPlaneView, Route
from serving_svc.service.deploys import DeployWorkflow
from serving_svc.service.endpoints import EndpointView, ServingService
from serving_svc.service.ports import (
    Control,
    Engine,
    Experiments,
    Registry,
    RequestKey,
    Store,
    Unit,
    WorkflowContext,
)
from serving_svc.service.ramp import RolloutWorkflow
from serving_svc.service.reconciler import Reconciler
from serving_svc.service.rollouts import RolloutService

__all__ = [
    "Autoscaler",
    "Control",
    "DataPlane",
    "DataPlaneView",
    "DeployWorkflow",
    "EndpointView",
    "Engine",
    "Experiments",
    "Reconciler",
    "Registry",
    "RequestKey",
    "RolloutService",
    "RolloutWorkflow",
    "Route",
    "ServingService",
    "Store",
    "Unit",
    "WorkflowContext",
]
