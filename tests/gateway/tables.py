"""Traffic tables for tests."""

from __future__ import annotations

from typing import Any

from modelyard.data.v1 import data_pb2
from modelyard.dataplane.v1 import dataplane_pb2

Field = data_pb2.InputField
SERVICE = "featureServices/flights"


def signature(**changes: Any) -> data_pb2.Signature:
    """Two looked-up features, a number and a category."""
    made = data_pb2.Signature(
        inputs=[
            Field(name="mean_delay", kind=1, source=1, required=True),
            Field(name="wind", kind=1, source=1, required=False),
            Field(name="distance", kind=1, source=2, required=True),
            Field(name="hour", kind=1, source=2, required=False),
            Field(name="carrier", kind=2, source=2, categories=["UA", "AA"]),
        ],
        outputs=["late"],
        entity_keys=["carrier", "origin"],
        feature_service=SERVICE,
    )
    for name, value in changes.items():
        made.ClearField(name)  # type: ignore[arg-type]
        if isinstance(value, list):
            getattr(made, name).extend(value)
        else:
            setattr(made, name, value)
    return made


def plain_signature(width: int = 2) -> data_pb2.Signature:
    """Numbers that the caller gives: `x0`, `x1`, ..."""
    return data_pb2.Signature(
        inputs=[Field(name=f"x{i}", kind=1, source=2, required=True) for i in range(width)],
        outputs=["y"],
    )


def variant(
    name: str, weight: int, shadow: int = 0, of: data_pb2.Signature | None = None
) -> dataplane_pb2.RouteVariant:
    """A variant of model `m`, whose version is its name without the v."""
    return dataplane_pb2.RouteVariant(
        variant=name,
        model_version=f"models/m/versions/{name[1:]}",
        weight_bp=weight,
        shadow_bp=shadow,
        signature=of or plain_signature(),
    )


def route(
    endpoint: str, *variants: dataplane_pb2.RouteVariant, **fields: Any
) -> dataplane_pb2.EndpointRoute:
    """A route whose first variant is the champion."""
    return dataplane_pb2.EndpointRoute(
        **{
            "endpoint": f"endpoints/{endpoint}",
            "generation": 3,
            "salt": "s",
            "variants": variants,
            "champion": variants[0].variant,
            # Long: what is slow on a busy machine is no failure.
            "deadline_ms": 20_000,
            **fields,
        }
    )


def state(
    revision: int, *routes: dataplane_pb2.EndpointRoute, **replicas: str
) -> dataplane_pb2.DataPlaneState:
    """A state; replicas by variant: `v1="127.0.0.1:1,127.0.0.1:2"`."""
    made = dataplane_pb2.DataPlaneState(revision=revision, endpoints=routes)
    for name, addresses in replicas.items():
        for at, address in enumerate(addresses.split(",")):
            made.replicas.add(
                replica_id=f"{name}-{at}-{address}",
                model_version=f"models/m/versions/{name[1:]}",
                address=address,
            )
    return made
