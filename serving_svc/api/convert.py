"""Contracts to domain objects and back."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from modelyard.data.v1 import data_pb2
from modelyard.dataplane.v1 import dataplane_pb2
from modelyard.serving.v1 import serving_pb2

from serving_svc.domain import (
    Endpoint,
    Replica,
    Rollout,
    RolloutEvent,
    Strategy,
    TrafficTable,
    Variant,
)
from serving_svc.service import DataPlaneView, EndpointView, Route

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def endpoint_from(message: serving_pb2.Endpoint, endpoint_id: str) -> Endpoint:
    """What a request says about an endpoint."""
    return Endpoint(
        endpoint_id=endpoint_id,
        model=message.model,
        created=_EPOCH,
        description=message.description,
        routing_key=message.routing_key,
        outcome_independent=message.outcome_independent,
        default_outputs=tuple(message.default_outputs),
        deadline=_delta(message.deadline),
        min_replicas=message.min_replicas,
        max_replicas=message.max_replicas,
        max_in_flight=message.max_in_flight,
        replica_gpus=message.replica_gpus if message.HasField("replica_gpus") else None,
        routing_header=message.routing_header,
        cache_rows=message.cache_rows,
        last_answer_rows=message.last_answer_rows,
        last_answer_age=_delta(message.last_answer_age),
    )


def endpoint_to(view: EndpointView) -> serving_pb2.Endpoint:
    """An endpoint as callers see it."""
    endpoint = view.endpoint
    return serving_pb2.Endpoint(
        name=endpoint.name,
        model=endpoint.model,
        description=endpoint.description,
        routing_key=endpoint.routing_key,
        outcome_independent=endpoint.outcome_independent,
        default_outputs=endpoint.default_outputs,
        deadline=_duration(endpoint.deadline),
        min_replicas=endpoint.min_replicas,
        max_replicas=endpoint.max_replicas,
        max_in_flight=endpoint.max_in_flight,
        state=f"STATE_{view.state.value}",
        traffic=table_to(view.table) if view.table else None,
        create_time=_moment(endpoint.created),
        state_reason=view.reason,
        replica_gpus=endpoint.replica_gpus,
        routing_header=endpoint.routing_header,
        cache_rows=endpoint.cache_rows,
        last_answer_rows=endpoint.last_answer_rows,
        last_answer_age=_duration(endpoint.last_answer_age),
    )


def variant_from(message: serving_pb2.Variant) -> Variant:
    """A variant of a request."""
    return Variant(message.variant, message.model_version, message.weight, message.shadow)


def table_to(table: TrafficTable) -> serving_pb2.TrafficTable:
    """A traffic table."""
    return serving_pb2.TrafficTable(
        generation=table.generation,
        variants=[
            serving_pb2.Variant(
                variant=variant.name,
                model_version=variant.model_version,
                weight=variant.weight,
                shadow=variant.shadow,
            )
            for variant in table.variants
        ],
        champion=table.champion,
        salt=table.salt,
        experiment=table.experiment,
        overrides=dict(table.overrides),
        reason=table.reason,
        actor=table.actor,
        create_time=_moment(table.created),
    )


def strategy_from(message: serving_pb2.RolloutStrategy) -> Strategy:
    """What a request says about a rollout; zero stands for the default."""
    return Strategy(
        steps=tuple(message.steps),
        shadow_percent=message.shadow_percent,
        skip_shadow=message.skip_shadow,
        primary_metric=message.primary_metric,
        step_min_samples=message.step_min_samples,
        max_samples=message.max_samples,
        alpha=message.alpha,
        margin=message.margin,
        max_error_rate=message.max_error_rate,
        max_latency_ratio=message.max_latency_ratio,
        timeout=_delta(message.timeout),
        interval=_delta(message.interval),
    )


def rollout_to(rollout: Rollout) -> serving_pb2.Rollout:
    """A rollout with its events."""
    return serving_pb2.Rollout(
        name=rollout.name,
        model_version=rollout.model_version,
        champion_version=rollout.champion_version,
        strategy=_strategy_to(rollout.strategy),
        state=f"STATE_{rollout.shown_state.value}",
        weight=rollout.weight,
        experiment=rollout.experiment,
        events=[_event_to(event) for event in rollout.events],
        create_time=_moment(rollout.created),
        end_time=_moment(rollout.ended) if rollout.ended else None,
        reason=rollout.reason,
    )


def state_to(view: DataPlaneView) -> dataplane_pb2.DataPlaneState:
    """The state of the data plane."""
    return dataplane_pb2.DataPlaneState(
        revision=view.revision,
        endpoints=[_route_to(route) for route in view.routes],
        replicas=[
            dataplane_pb2.Replica(
                replica_id=replica.replica_id,
                model_version=replica.model_version,
                address=replica.address,
            )
            for replica in view.replicas
        ],
    )


def replica_from(message: dataplane_pb2.ReportReplicaRequest, now: datetime) -> Replica:
    """A replica's report."""
    return Replica(
        replica_id=message.replica_id,
        model_version=message.model_version,
        address=message.address,
        in_flight_rows=message.in_flight_rows,
        queue_us=message.queue_us,
        draining=message.draining,
        seen=now,
        runtime=message.runtime,
        load_ms=message.load_ms,
        orphaned=message.orphaned,
    )


def _route_to(route: Route) -> dataplane_pb2.EndpointRoute:
    endpoint, table = route.endpoint, route.table
    return dataplane_pb2.EndpointRoute(
        endpoint=endpoint.name,
        generation=table.generation,
        salt=table.salt,
        routing_key=endpoint.routing_key,
        variants=[_route_variant(variant, route.signatures) for variant in table.variants],
        champion=table.champion,
        default_outputs=endpoint.default_outputs,
        deadline_ms=max(1, endpoint.deadline // timedelta(milliseconds=1)),
        experiment=table.experiment,
        paired=bool(table.experiment) and endpoint.outcome_independent,
        arms=_arms(table) if table.experiment else (),
        overrides=dict(table.overrides),
        max_in_flight=endpoint.max_in_flight,
        routing_header=endpoint.routing_header,
        cache_rows=endpoint.cache_rows,
        last_answer_rows=endpoint.last_answer_rows,
        last_answer_age_s=endpoint.last_answer_age // timedelta(seconds=1),
    )


def _route_variant(variant: Variant, signatures: dict[str, bytes]) -> dataplane_pb2.RouteVariant:
    return dataplane_pb2.RouteVariant(
        variant=variant.name,
        model_version=variant.model_version,
        weight_bp=variant.weight_bp,
        shadow_bp=variant.shadow_bp,
        signature=data_pb2.Signature.FromString(signatures.get(variant.model_version, b"")),
    )


def _arms(table: TrafficTable) -> Sequence[str]:
    others = (variant.name for variant in table.variants if variant.name != table.champion)
    return (table.champion, *others)


def _strategy_to(strategy: Strategy) -> serving_pb2.RolloutStrategy:
    return serving_pb2.RolloutStrategy(
        steps=strategy.steps,
        shadow_percent=strategy.shadow_percent,
        skip_shadow=strategy.skip_shadow,
        primary_metric=strategy.primary_metric,
        step_min_samples=strategy.step_min_samples,
        max_samples=strategy.max_samples,
        alpha=strategy.alpha,
        margin=strategy.margin,
        max_error_rate=strategy.max_error_rate,
        max_latency_ratio=strategy.max_latency_ratio,
        timeout=_duration(strategy.timeout),
        interval=_duration(strategy.interval),
    )


def _event_to(event: RolloutEvent) -> serving_pb2.RolloutEvent:
    return serving_pb2.RolloutEvent(
        step=event.step,
        decision=event.decision,
        reasons=event.reasons,
        samples=event.samples,
        event_time=_moment(event.at),
    )


def _delta(message: Duration) -> timedelta:
    # Wider than a timedelta can be is wider than any limit, too.
    seconds = max(-1e9, min(1e9, message.seconds + message.nanos / 1e9))
    return timedelta(seconds=seconds)


def _duration(delta: timedelta) -> Duration:
    message = Duration()
    message.FromTimedelta(delta)
    return message


def _moment(at: datetime) -> Timestamp:
    message = Timestamp()
    message.FromDatetime(at)
    return message
