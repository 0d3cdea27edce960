"""Pings of the gateway's dependencies."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from grpc_health.v1 import health_pb2

from gateway.ops.health import Ping
from gateway.upstreams import Upstreams
from service_kit.errors import Unavailable

_METHOD = "/grpc.health.v1.Health/Check"
_TIMEOUT_S = 1.5


def blocking_ping(ping: Callable[[], object]) -> Ping:
    """A ping that blocks, in a thread."""

    async def ask() -> None:
        await asyncio.to_thread(ping)

    return ask


def peer_ping(upstreams: Upstreams, area: str) -> Ping:
    """The health call of an area's service."""

    async def ask() -> None:
        call = upstreams.channel(area).unary_unary(
            _METHOD,
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        answer = await call(health_pb2.HealthCheckRequest(), timeout=_TIMEOUT_S)
        if answer.status != health_pb2.HealthCheckResponse.SERVING:
            raise Unavailable("NOT_SERVING", "the service is not ready")

    return ask


def flag_ping(flag: Callable[[], bool]) -> Ping:
    """A ping that fails while a flag is down."""

    async def ask() -> None:
        if not flag():
            raise Unavailable("NOT_CONNECTED", "not connected")

    return ask


def peer_pings(upstreams: Upstreams, areas: Iterable[str]) -> dict[str, Ping]:
    """The health calls of several areas, by their names."""
    return {area: peer_ping(upstreams, area) for area in areas}
