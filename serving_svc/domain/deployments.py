"""Deployments: versions that are to be loaded, and what must be done to get there."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from service_kit.names import parse_name
from serving_svc.domain.traffic import VERSION_PATTERN

#: Reports that a replica may miss before it counts as lost.
MISSED_REPORTS = 3


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """What serving must know of a version.

    Attributes:
        name: `models/{model}/versions/{version}`.
        runtime: Plugin that loads it.
        artifact: sha256 of the model file, in hex.
        inputs: Columns of the input matrix.
        outputs: Columns of the output matrix.
        signature: The serialized signature, passed on to the data plane as it is.
        format: Declared format of the model file; empty in records of loaded versions.
    """

    name: str
    runtime: str
    artifact: str
    inputs: int
    outputs: int
    signature: bytes
    format: str = ""


@dataclass(frozen=True, slots=True)
class Deployment:
    """A version that an endpoint has loaded, or had.

    Attributes:
        app: Name of its Ray Serve application.
        replicas: How many replicas it should have.
        wanted: Whether it should run.
        failure: Why it can't be loaded; empty when it can.
        gpus: GPUs set aside for a replica; what the service sets when nothing is said.
    """

    endpoint_id: str
    version: ModelVersion
    app: str
    replicas: int
    created: datetime
    wanted: bool = True
    failure: str = ""
    gpus: float | None = None


@dataclass(frozen=True, slots=True)
class Replica:
    """A replica as it last reported itself.

    Attributes:
        runtime: Plugin that scores; empty when it does not say.
        load_ms: Milliseconds to fetch, load and warm up its model.
        orphaned: Whether it goes on without its actor, so that Ray knows of it no longer.
    """

    replica_id: str
    model_version: str
    address: str
    in_flight_rows: int
    queue_us: int
    draining: bool
    seen: datetime
    runtime: str = ""
    load_ms: int = 0
    orphaned: bool = False


class AppState(StrEnum):
    """How far Ray Serve is with an application."""

    STARTING = "STARTING"
    RUNNING = "RUNNING"
    FAILED = "FAILED"
    STOPPING = "STOPPING"


@dataclass(frozen=True, slots=True)
class AppStatus:
    """An application as Ray Serve sees it.

    Attributes:
        replicas: Replicas that run, start or recover; not those that stop.
        up: Replicas that run.
    """

    state: AppState
    message: str = ""
    replicas: int = 0
    up: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do so that what runs is what is wanted."""

    start: tuple[Deployment, ...]
    scale: tuple[Deployment, ...]
    stop: tuple[Deployment, ...]
    forget: tuple[Deployment, ...]
    failed: tuple[tuple[Deployment, str], ...]


def app_name(endpoint_id: str, model_version: str) -> str:
    """Name of the application that serves a version for an endpoint.

    >>> app_name("late-arrival", "models/delay/versions/3")
    'late-arrival-v3'
    """
    version = parse_name(VERSION_PATTERN, model_version, field="model_version")["version"]
    return f"{endpoint_id}-v{version}"


def plan(deployments: Sequence[Deployment], running: Mapping[str, AppStatus]) -> Plan:
    """Compare what is wanted with what runs.

    Args:
        deployments: All that is on record.
        running: Ray Serve's applications by name.
    """
    start: list[Deployment] = []
    scale: list[Deployment] = []
    stop: list[Deployment] = []
    forget: list[Deployment] = []
    failed: list[tuple[Deployment, str]] = []
    for each in deployments:
        status = running.get(each.app)
        if not each.wanted:
            (forget if status is None else stop).append(each)
        elif each.failure:
            continue
        elif status is None:
            start.append(each)
        elif status.state is AppState.FAILED and not status.up:
            failed.append((each, status.message))
        elif status.state is not AppState.STOPPING and status.replicas != each.replicas:
            scale.append(each)
    return Plan(tuple(start), tuple(scale), tuple(stop), tuple(forget), tuple(failed))


def lost(replicas: Collection[Replica], now: datetime, interval: timedelta) -> list[Replica]:
    """Replicas that have missed too many reports."""
    oldest = now - interval * (MISSED_REPORTS + 0.5)
    return [replica for replica in replicas if replica.seen < oldest]


def relieved(replicas: Collection[Replica], wanted: int) -> list[Replica]:
    """Orphans of one version that may go: those beyond what is wanted and Ray has yet to place.

    One goes for each that comes, so that together they are never fewer than wanted, and what an
    orphan holds of a GPU is free for the next one.

    Args:
        replicas: All of the version.
        wanted: How many it should have.
    """
    placed = [each for each in replicas if not each.orphaned and not each.draining]
    orphans = [each for each in replicas if each.orphaned and not each.draining]
    kept = max(0, wanted - len(placed))
    return sorted(orphans, key=lambda each: each.replica_id)[kept:]


def usable(replicas: Collection[Replica]) -> dict[str, int]:
    """How many replicas take new requests, by version."""
    counts: dict[str, int] = {}
    for replica in replicas:
        if not replica.draining:
            counts[replica.model_version] = counts.get(replica.model_version, 0) + 1
    return counts
