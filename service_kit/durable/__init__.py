"""Durable workflows: plain functions whose finished steps survive the end of the process."""

from service_kit.durable.context import WorkflowContext
from service_kit.durable.engine import DurableEngine, WorkflowFunction, WorkflowState
from service_kit.durable.outcomes import StepFailed

__all__ = [
    "DurableEngine",
    "StepFailed",
    "WorkflowContext",
    "WorkflowFunction",
    "WorkflowState",
]
