"""Rows to domain objects and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import timedelta
from typing import Any

from serving_svc.domain import (
    Deployment,
    Endpoint,
    ModelVersion,
    Rollout,
    RolloutEvent,
    RolloutState,
    Strategy,
    TrafficTable,
    Variant,
)
from serving_svc.storage.tables import (
    DeploymentRow,
    EndpointRow,
    RolloutEventRow,
    RolloutRow,
    TableRow,
)

_MS, _S = timedelta(milliseconds=1), timedelta(seconds=1)
_SAME_ENDPOINT = (
    "endpoint_id",
    "model",
    "created",
    "description",
    "routing_key",
    "routing_header",
    "cache_rows",
    "last_answer_rows",
    "outcome_independent",
    "min_replicas",
    "max_replicas",
    "max_in_flight",
    "generation",
    "deploying",
    "deploy_workflow",
    "failure",
    "replica_gpus",
)
_SAME_TABLE = (
    "generation",
    "champion",
    "salt",
    "created",
    "experiment",
    "reason",
    "actor",
    "last_good",
    "transitional",
)
_SAME_DEPLOYMENT = ("endpoint_id", "app", "replicas", "created", "wanted", "failure", "gpus")
_SAME_VERSION = ("runtime", "artifact", "inputs", "outputs", "signature")
_SAME_ROLLOUT = (
    "rollout_id",
    "endpoint_id",
    "model_version",
    "champion_version",
    "created",
    "actor",
    "base_generation",
    "table_generation",
    "stage",
    "stage_samples",
    "weight",
    "experiment",
    "paused",
    "ended",
    "reason",
)


def endpoint_values(endpoint: Endpoint) -> dict[str, Any]:
    """Columns of an endpoint."""
    return _taken(endpoint, _SAME_ENDPOINT) | {
        "default_outputs": list(endpoint.default_outputs),
        "deadline_ms": endpoint.deadline // _MS,
        "last_answer_age_s": endpoint.last_answer_age // _S,
    }


def endpoint_of(row: EndpointRow) -> Endpoint:
    """An endpoint of its row."""
    return Endpoint(
        **_taken(row, _SAME_ENDPOINT),
        default_outputs=tuple(row.default_outputs),
        deadline=row.deadline_ms * _MS,
        last_answer_age=row.last_answer_age_s * _S,
    )


def table_values(table: TrafficTable) -> dict[str, Any]:
    """Columns of a traffic table, less the endpoint."""
    return _taken(table, _SAME_TABLE) | {
        "variants": [asdict(variant) for variant in table.variants],
        "overrides": dict(table.overrides),
    }


def table_of(row: TableRow) -> TrafficTable:
    """A traffic table of its row."""
    return TrafficTable(
        **_taken(row, _SAME_TABLE),
        variants=tuple(Variant(**variant) for variant in row.variants),
        overrides=dict(row.overrides),
    )


def deployment_values(deployment: Deployment) -> dict[str, Any]:
    """Columns of a deployment."""
    version = _taken(deployment.version, _SAME_VERSION)
    return (
        _taken(deployment, _SAME_DEPLOYMENT) | version | {"model_version": deployment.version.name}
    )


def deployment_of(row: DeploymentRow) -> Deployment:
    """A deployment of its row."""
    version = ModelVersion(name=row.model_version, **_taken(row, _SAME_VERSION))
    return Deployment(version=version, **_taken(row, _SAME_DEPLOYMENT))


def rollout_values(rollout: Rollout) -> dict[str, Any]:
    """Columns of a rollout."""
    strategy = asdict(rollout.strategy) | {
        "steps": list(rollout.strategy.steps),
        "timeout": rollout.strategy.timeout.total_seconds(),
        "interval": rollout.strategy.interval.total_seconds(),
    }
    same = _taken(rollout, _SAME_ROLLOUT)
    return same | {"strategy": strategy, "state": rollout.state.value}


def rollout_of(row: RolloutRow, events: Sequence[RolloutEventRow] = ()) -> Rollout:
    """A rollout of its row and those of its events."""
    given = dict(row.strategy)
    strategy = Strategy(
        **given
        | {
            "steps": tuple(given["steps"]),
            "timeout": timedelta(seconds=given["timeout"]),
            "interval": timedelta(seconds=given["interval"]),
        }
    )
    return Rollout(
        **_taken(row, _SAME_ROLLOUT),
        strategy=strategy,
        state=RolloutState(row.state),
        events=tuple(_event_of(event) for event in events),
    )


def event_values(rollout_id: str, event: RolloutEvent) -> dict[str, Any]:
    """Columns of an event."""
    return {
        "rollout_id": rollout_id,
        "step": event.step,
        "decision": event.decision,
        "reasons": list(event.reasons),
        "samples": event.samples,
        "at": event.at,
    }


def _event_of(row: RolloutEventRow) -> RolloutEvent:
    return RolloutEvent(row.step, row.decision, tuple(row.reasons), row.samples, row.at)


def _taken(source: object, names: Sequence[str]) -> dict[str, Any]:
    return {name: getattr(source, name) for name in names}
