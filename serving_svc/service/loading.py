"""Which versions are to be loaded: those in the table, those to go back to, those on trial."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from serving_svc.domain import Deployment, Endpoint, ModelVersion, app_name
from serving_svc.domain.scaling import Bounds
from serving_svc.service.ports import Unit


def want(unit: Unit, endpoint: Endpoint, version: ModelVersion, now: datetime) -> None:
    """Put a version on record as one that should run; an earlier failure is forgotten."""
    unit.save_deployment(
        Deployment(
            endpoint_id=endpoint.endpoint_id,
            version=version,
            app=app_name(endpoint.endpoint_id, version.name),
            replicas=_replicas_at_first(unit, endpoint),
            created=now,
            gpus=endpoint.replica_gpus,
        )
    )


def rebound(unit: Unit, endpoint: Endpoint) -> None:
    """Bring the counts of replicas within the bounds of an endpoint that was changed."""
    bounds = Bounds(endpoint.min_replicas, endpoint.max_replicas)
    for each in unit.deployments(endpoint.endpoint_id):
        if each.wanted and each.replicas != bounds.clamp(each.replicas):
            unit.save_deployment(replace(each, replicas=bounds.clamp(each.replicas)))


def settle(unit: Unit, endpoint: Endpoint) -> None:
    """Let go of the versions that nothing needs any more, and want those back that are needed."""
    needed = _needed(unit, endpoint)
    for each in unit.deployments(endpoint.endpoint_id):
        wanted = each.version.name in needed
        if each.wanted != wanted:
            failure = "" if wanted else each.failure
            unit.save_deployment(replace(each, wanted=wanted, failure=failure))


def replicas_of(unit: Unit, endpoint: Endpoint, version: str) -> int:
    """How many replicas a version should have; 0 when it is not on record."""
    counts = {each.version.name: each.replicas for each in unit.deployments(endpoint.endpoint_id)}
    return counts.get(version, 0)


def failure_of(unit: Unit, endpoint: Endpoint, version: str) -> str:
    """Why a version can't be loaded; empty while it may be."""
    for each in unit.deployments(endpoint.endpoint_id):
        if each.version.name == version:
            return each.failure if each.wanted else "the version was unloaded meanwhile"
    return "the version is not on record"


def _replicas_at_first(unit: Unit, endpoint: Endpoint) -> int:
    # It may get the champion's traffic in one step: what that needs, it needs.
    table = unit.table(endpoint.endpoint_id, endpoint.generation)
    champion = table.champion_version if table is not None else ""
    counts = [
        each.replicas
        for each in unit.deployments(endpoint.endpoint_id)
        if each.version.name == champion and each.wanted
    ]
    return Bounds(endpoint.min_replicas, endpoint.max_replicas).clamp(max(counts, default=0))


def _needed(unit: Unit, endpoint: Endpoint) -> set[str]:
    needed = {endpoint.deploying}
    table = unit.table(endpoint.endpoint_id, endpoint.generation)
    if table is not None:
        needed |= table.versions
        good = unit.table(endpoint.endpoint_id, table.last_good)
        needed |= good.versions if good is not None else frozenset()
    needed |= {rollout.model_version for rollout in unit.active_rollouts(endpoint.endpoint_id)}
    return needed
