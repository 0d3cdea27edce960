"""Which versions are to be loaded: those in the table, those to go back to, those on trial."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from serving_svc.domain import Deployment, Endpoint, ModelVersion, app_name
from serving_svc.service.ports import Unit


def want(unit: Unit, endpoint: Endpoint, version: ModelVersion, now: datetime) -> None:
    """Put a version on record as one that should run; an earlier failure is forgotten."""
    unit.save_deployment(
        Deployment(
            endpoint_id=endpoint.endpoint_id,
            version=version,
            app=app_name(endpoint.endpoint_id, version.name),
            replicas=endpoint.min_replicas,
            created=now,
        )
    )


def settle(unit: Unit, endpoint: Endpoint) -> None:
    """Let go of the versions that nothing needs any more, and want those back that are needed."""
    needed = _needed(unit, endpoint)
    for each in unit.deployments(endpoint.endpoint_id):
        wanted = each.version.name in needed
        if each.wanted != wanted:
            failure = "" if wanted else each.failure
            unit.save_deployment(replace(each, wanted=wanted, failure=failure))


def failure_of(unit: Unit, endpoint: Endpoint, version: str) -> str:
    """Why a version can't be loaded; empty while it may be."""
    for each in unit.deployments(endpoint.endpoint_id):
        if each.version.name == version:
            return each.failure if each.wanted else "the version was unloaded meanwhile"
    return "the version is not on record"


def _needed(unit: Unit, endpoint: Endpoint) -> set[str]:
    needed = {endpoint.deploying}
    table = unit.table(endpoint.endpoint_id, endpoint.generation)
    if table is not None:
        needed |= table.versions
        good = unit.table(endpoint.endpoint_id, table.last_good)
        needed |= good.versions if good is not None else frozenset()
    needed |= {rollout.model_version for rollout in unit.active_rollouts(endpoint.endpoint_id)}
    return needed
