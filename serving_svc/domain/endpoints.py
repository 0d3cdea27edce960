"""Endpoints: stable addresses behind which versions change."""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from service_kit.errors import FailedPrecondition, InvalidArgument
from service_kit.names import check_id, parse_name

DEFAULT_DEADLINE = timedelta(seconds=1)
LONGEST_DEADLINE = timedelta(seconds=60)
DEFAULT_IN_FLIGHT = 256
MOST_REPLICAS = 256
MOST_GPUS = 64
MOST_CACHE_ROWS = 1_000_000
MOST_LAST_ANSWER_ROWS = 1_000_000
LAST_ANSWER_AGE, MOST_LAST_ANSWER_AGE = timedelta(hours=1), timedelta(days=7)

_HEADER = re.compile(r"[a-z][a-z0-9-]{0,63}")
_SECRET_HEADERS = frozenset(("authorization", "cookie", "proxy-authorization", "x-api-key"))

#: Fields that may be changed after creation; the model may not, its versions are.
CHANGEABLE = (
    "description",
    "routing_key",
    "routing_header",
    "cache_rows",
    "last_answer_rows",
    "last_answer_age",
    "outcome_independent",
    "default_outputs",
    "deadline",
    "min_replicas",
    "max_replicas",
    "max_in_flight",
    "replica_gpus",
)


class EndpointState(StrEnum):
    """Life of an endpoint."""

    EMPTY = "EMPTY"
    DEPLOYING = "DEPLOYING"
    READY = "READY"
    DEGRADED = "DEGRADED"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What a person says about an endpoint, and where it stands.

    Attributes:
        model: `models/{model}` whose versions it serves.
        routing_key: Request field that the split sticks to; empty for none.
        routing_header: Request header that goes before it; empty for the gateway's own.
        cache_rows: Answers of each version that gateways keep; none when 0.
        last_answer_rows: Answers that gateways remember as a last resort; none when 0.
        last_answer_age: Age after which such an answer is given no more, in whole seconds.
        outcome_independent: The outcome does not depend on which variant answered.
        default_outputs: Answer of last resort, one value an output; none when empty.
        replica_gpus: GPUs set aside for a replica, a share of one or whole ones; what the service
            sets when nothing is said.
        generation: Generation of the table in force; 0 before the first one.
        deploying: Version whose deployment is under way, with the workflow that does it.
        failure: Why the last deployment failed; empty when it did not.
    """

    endpoint_id: str
    model: str
    created: datetime
    description: str = ""
    routing_key: str = ""
    outcome_independent: bool = False
    default_outputs: tuple[float, ...] = ()
    deadline: timedelta = DEFAULT_DEADLINE
    min_replicas: int = 1
    max_replicas: int = 1
    max_in_flight: int = DEFAULT_IN_FLIGHT
    generation: int = 0
    deploying: str = ""
    deploy_workflow: str = ""
    failure: str = ""
    replica_gpus: float | None = None
    routing_header: str = ""
    cache_rows: int = 0
    last_answer_rows: int = 0
    last_answer_age: timedelta = LAST_ANSWER_AGE

    @property
    def name(self) -> str:
        """`endpoints/{endpoint}`."""
        return f"endpoints/{self.endpoint_id}"


def checked(endpoint: Endpoint) -> Endpoint:
    """The endpoint with its defaults filled in.

    Raises InvalidArgument naming the field that is wrong.
    """
    check_id(endpoint.endpoint_id, "endpoint_id")
    parse_name("models/{model}", endpoint.model, field="endpoint.model")
    if not all(map(math.isfinite, endpoint.default_outputs)):
        raise InvalidArgument(
            "NOT_FINITE", "must be finite numbers", field="endpoint.default_outputs"
        )
    if not timedelta() <= endpoint.deadline <= LONGEST_DEADLINE:
        raise InvalidArgument(
            "INVALID_DEADLINE", "must be between 0 and 60 s", field="endpoint.deadline"
        )
    for field in ("min_replicas", "max_replicas"):
        if not 0 <= getattr(endpoint, field) <= MOST_REPLICAS:
            raise InvalidArgument(
                "INVALID_REPLICAS",
                f"must be between 0 and {MOST_REPLICAS}",
                field=f"endpoint.{field}",
            )
    if endpoint.max_in_flight < 0:
        raise InvalidArgument(
            "INVALID_LIMIT", "must not be negative", field="endpoint.max_in_flight"
        )
    _check_gpus(endpoint.replica_gpus)
    if not 0 <= endpoint.cache_rows <= MOST_CACHE_ROWS:
        raise InvalidArgument(
            "INVALID_LIMIT", f"must be between 0 and {MOST_CACHE_ROWS}", field="endpoint.cache_rows"
        )
    _check_last_answers(endpoint)
    _check_header(endpoint.routing_header)
    least = endpoint.min_replicas or 1
    most = endpoint.max_replicas or least
    if most < least:
        raise InvalidArgument(
            "INVALID_REPLICAS", "must not be below min_replicas", field="endpoint.max_replicas"
        )
    return replace(
        endpoint,
        deadline=endpoint.deadline or DEFAULT_DEADLINE,
        last_answer_age=endpoint.last_answer_age or LAST_ANSWER_AGE,
        min_replicas=least,
        max_replicas=most,
        max_in_flight=endpoint.max_in_flight or DEFAULT_IN_FLIGHT,
    )


def _check_last_answers(endpoint: Endpoint) -> None:
    if not 0 <= endpoint.last_answer_rows <= MOST_LAST_ANSWER_ROWS:
        raise InvalidArgument(
            "INVALID_LIMIT",
            f"must be between 0 and {MOST_LAST_ANSWER_ROWS}",
            field="endpoint.last_answer_rows",
        )
    age = endpoint.last_answer_age
    if not timedelta() <= age <= MOST_LAST_ANSWER_AGE or age % timedelta(seconds=1):
        raise InvalidArgument(
            "INVALID_AGE",
            "must be between 0 and 7 days, in whole seconds",
            field="endpoint.last_answer_age",
        )


def _check_gpus(gpus: float | None) -> None:
    # Ray gives shares of one GPU, or whole ones.
    if gpus is not None and not (0 <= gpus <= 1 or (gpus <= MOST_GPUS and gpus.is_integer())):
        raise InvalidArgument(
            "INVALID_GPUS",
            f"must be a share of one or a whole number up to {MOST_GPUS}",
            field="endpoint.replica_gpus",
        )


def _check_header(name: str) -> None:
    # Units are logged: what carries a secret can't be one.
    if name and (not _HEADER.fullmatch(name) or name in _SECRET_HEADERS or name.endswith("-bin")):
        raise InvalidArgument(
            "INVALID_HEADER",
            "must be the name of a header in lower case that carries no credentials",
            field="endpoint.routing_header",
        )


def changed(current: Endpoint, wanted: Endpoint, paths: Collection[str]) -> Endpoint:
    """`current` with the fields named in `paths` as in `wanted`; all of them when none is named.

    Raises InvalidArgument (`FIELD_NOT_CHANGEABLE`) or what `checked` raises.
    """
    for path in paths:
        if path not in CHANGEABLE:
            raise InvalidArgument(
                "FIELD_NOT_CHANGEABLE", "names a field that can't be changed", field="update_mask"
            )
    values = {path: getattr(wanted, path) for path in (paths or CHANGEABLE)}
    return checked(replace(current, **values))


def state_of(endpoint: Endpoint, champion: str, live: Collection[str]) -> tuple[EndpointState, str]:
    """Where an endpoint stands and what is wrong with it.

    Args:
        endpoint: The endpoint.
        champion: Version that is the champion; empty before the first table.
        live: Versions of which at least one replica answers.
    """
    if not champion:
        if endpoint.deploying:
            return EndpointState.DEPLOYING, ""
        return EndpointState.EMPTY, endpoint.failure
    if champion not in live:
        return EndpointState.DEGRADED, "no replica of the champion answers"
    return EndpointState.READY, endpoint.failure


def refuse_while_busy(endpoint: Endpoint, active_rollout: str) -> None:
    """Refuse what would get in the way of a deployment or a rollout under way.

    Raises FailedPrecondition (`ROLLOUT_ACTIVE`, `DEPLOYMENT_ACTIVE`).
    """
    if active_rollout:
        raise FailedPrecondition(
            "ROLLOUT_ACTIVE", "a rollout is under way; abort it first", rollout=active_rollout
        )
    if endpoint.deploying:
        raise FailedPrecondition("DEPLOYMENT_ACTIVE", "another version is being deployed")
