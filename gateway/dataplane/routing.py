"""The state of the data plane as the hot path reads it: compiled once, then only looked up."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from modelyard.data.v1 import data_pb2
from modelyard.dataplane.v1 import dataplane_pb2

from gateway.dataplane.assignment import BUCKETS, bucket
from gateway.dataplane.inputs import InputField, InputPlan, make_plan
from service_kit.errors import NotFound

DEFAULT_DEADLINE_S = 1.0
#: Header that names the unit of a request where the endpoint names no other.
ROUTING_HEADER = b"x-routing-key"
_SHADOW = "shadow"


class BadStateError(ValueError):
    """A state that makes no sense; the one before stays in force."""


@dataclass(frozen=True, slots=True)
class Variant:
    """A version with its part in the traffic.

    Attributes:
        version: The last part of the version's name.
    """

    name: str
    model_version: str
    shadow_bp: int
    plan: InputPlan
    version: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "version", self.model_version.rpartition("/")[2])


@dataclass(frozen=True, slots=True)
class Route:
    """How requests to one endpoint are answered.

    Attributes:
        endpoint: `endpoints/{endpoint}`.
        bounds: Upper bounds of the variants' buckets, in the order of the table.
        arms: Variants of the experiment, control first; empty without one.
        accepted: Everything that a caller may give, for whichever variant.
        deadline_s: Time limit of a request in seconds.
        max_in_flight: Most requests under way; no limit when 0.
        undivided: The variant that answers everybody, when one does.
        routing_header: Header that names the unit of a request, in lower case.
        cache_rows: Answers of each version that are kept; none when 0.
        last_answer_rows: Answers that are remembered as a last resort; none when 0.
        last_answer_age_s: Seconds after which such an answer is too old.
    """

    endpoint: str
    generation: int
    salt: str
    routing_key: str
    variants: tuple[Variant, ...]
    bounds: tuple[int, ...]
    champion: Variant
    overrides: Mapping[str, Variant]
    default_outputs: tuple[float, ...]
    deadline_s: float
    experiment: str
    paired: bool
    arms: tuple[Variant, ...]
    shadows: tuple[Variant, ...]
    accepted: frozenset[str]
    max_in_flight: int
    undivided: Variant | None = None
    routing_header: bytes = ROUTING_HEADER
    cache_rows: int = 0
    last_answer_rows: int = 0
    last_answer_age_s: float = 0.0

    @property
    def unattended(self) -> bool:
        """Whether an answer is the whole of it: no shadow, no experiment, nothing kept."""
        return not (self.shadows or self.arms or self.cache_rows or self.last_answer_rows)

    def assign(self, unit: str) -> Variant:
        """The variant that answers a unit."""
        if self.overrides:
            named = self.overrides.get(unit)
            if named is not None:
                return named
        at = bisect_right(self.bounds, bucket(self.salt, unit))
        return self.variants[at] if at < len(self.variants) else self.champion

    def draw(self, prediction_id: str) -> Variant:
        """The variant that answers a prediction whose unit is the prediction itself.

        Its id ends with random bits, which serve as well as those of a hash.
        """
        at = bisect_right(self.bounds, int(prediction_id[-8:], 16) * BUCKETS >> 32)
        return self.variants[at]

    def shadows_of(self, unit: str) -> Sequence[Variant]:
        """The variants that score a unit's request besides the one that answers it."""
        if not self.shadows:
            return ()
        at = bucket(f"{self.salt}:{_SHADOW}", unit)
        return [variant for variant in self.shadows if at < variant.shadow_bp]

    def with_version(self, version: str) -> Variant:
        """The variant of a version id or of a variant's name.

        Raises:
            NotFound: `VERSION_NOT_SERVED`.
        """
        for variant in self.variants:
            if version in (variant.version, variant.name):
                return variant
        raise NotFound(
            "VERSION_NOT_SERVED", "the endpoint does not serve this version", field="version"
        )


@dataclass(frozen=True, slots=True)
class ReplicaAddress:
    """Where a replica listens."""

    replica_id: str
    model_version: str
    address: str


@dataclass(frozen=True, slots=True)
class RoutingState:
    """All endpoints (by id) and replicas at one moment."""

    revision: int = -1
    routes: Mapping[str, Route] = field(default_factory=dict)
    replicas: tuple[ReplicaAddress, ...] = ()

    def versions(self) -> set[str]:
        """Versions that are in a table or loaded, as the one is that a rollback goes back to."""
        loaded = {replica.model_version for replica in self.replicas}
        routes = self.routes.values()
        return loaded | {each.model_version for route in routes for each in route.variants}


def compile_state(message: dataplane_pb2.DataPlaneState) -> RoutingState:
    """The state of a message.

    Raises:
        BadStateError: When a table makes no sense.
    """
    return RoutingState(
        revision=message.revision,
        routes={
            route.endpoint.removeprefix("endpoints/"): _route(route) for route in message.endpoints
        },
        replicas=tuple(
            ReplicaAddress(replica.replica_id, replica.model_version, replica.address)
            for replica in message.replicas
        ),
    )


def _route(message: dataplane_pb2.EndpointRoute) -> Route:
    variants = tuple(_variant(variant) for variant in message.variants)
    by_name = {variant.name: variant for variant in variants}
    champion = by_name.get(message.champion)
    bounds = tuple(accumulate(variant.weight_bp for variant in message.variants))
    if champion is None or len(by_name) != len(variants) or bounds[-1] != BUCKETS:
        raise BadStateError(f"the traffic table of {message.endpoint} makes no sense")
    return Route(
        endpoint=message.endpoint,
        generation=message.generation,
        salt=message.salt,
        routing_key=message.routing_key,
        variants=variants,
        bounds=bounds,
        champion=champion,
        overrides={
            unit: by_name[name] for unit, name in message.overrides.items() if name in by_name
        },
        default_outputs=tuple(message.default_outputs),
        deadline_s=message.deadline_ms / 1e3 or DEFAULT_DEADLINE_S,
        experiment=message.experiment,
        paired=message.paired,
        arms=tuple(by_name[arm] for arm in message.arms if arm in by_name),
        shadows=tuple(variant for variant in variants if variant.shadow_bp),
        accepted=_accepted(variants, message.routing_key),
        max_in_flight=message.max_in_flight,
        undivided=None if message.overrides else _whole(variants, message),
        routing_header=message.routing_header.lower().encode() or ROUTING_HEADER,
        cache_rows=message.cache_rows if all(each.plan.fields for each in variants) else 0,
        last_answer_rows=message.last_answer_rows,
        last_answer_age_s=message.last_answer_age_s,
    )


def _whole(variants: Sequence[Variant], message: dataplane_pb2.EndpointRoute) -> Variant | None:
    weights = (variant.weight_bp for variant in message.variants)
    named = zip(variants, weights, strict=True)
    return next((variant for variant, weight in named if weight == BUCKETS), None)


def _accepted(variants: Sequence[Variant], routing_key: str) -> frozenset[str]:
    names = frozenset[str]().union(*(variant.plan.accepted for variant in variants))
    return names | {routing_key} if routing_key else names


def _variant(message: dataplane_pb2.RouteVariant) -> Variant:
    return Variant(
        name=message.variant,
        model_version=message.model_version,
        shadow_bp=message.shadow_bp,
        plan=_plan(message.signature),
    )


def _plan(signature: data_pb2.Signature) -> InputPlan:
    kinds = data_pb2.InputField
    fields = [
        InputField(
            name=each.name,
            codes=(
                {name: code for code, name in enumerate(each.categories)}
                if each.kind == kinds.KIND_CATEGORICAL
                else None
            ),
            looked_up=each.source == kinds.SOURCE_FEATURE,
            required=each.required,
        )
        for each in signature.inputs
    ]
    return make_plan(fields, signature.outputs, signature.entity_keys, signature.feature_service)
