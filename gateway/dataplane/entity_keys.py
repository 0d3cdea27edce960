"""Which entity keys a feature depends on: asked only to word a refusal, and remembered."""

from __future__ import annotations

from typing import Any

import grpc
from modelyard.features.v1 import features_pb2

_TIMEOUT_S = 0.5
_MOST = 1_000


class EntityKeyLookup:
    """Finds the keys in the definitions of the feature service and its views.

    Args:
        stub: A `FeatureServiceStub`.
    """

    def __init__(self, stub: Any) -> None:
        self._stub = stub
        self._known: dict[tuple[str, str], tuple[str, ...]] = {}

    async def of_feature(self, service: str, feature: str) -> tuple[str, ...]:
        """The keys; empty when that can't be found out now."""
        known = self._known.get((service, feature))
        if known is not None:
            return known
        try:
            keys = await self._ask(service, feature)
        except grpc.RpcError:
            return ()
        if len(self._known) >= _MOST:
            self._known.clear()
        self._known[service, feature] = keys
        return keys

    async def _ask(self, service: str, feature: str) -> tuple[str, ...]:
        request = features_pb2.GetFeatureServiceRequest(name=service)
        definition = await self._stub.GetFeatureService(request, timeout=_TIMEOUT_S)
        for each in definition.features:
            view, _, name = each.rpartition(":")
            if name == feature:
                path = view if view.startswith("featureViews/") else f"featureViews/{view}"
                found = await self._stub.GetFeatureView(
                    features_pb2.GetFeatureViewRequest(name=path), timeout=_TIMEOUT_S
                )
                entities = {entity.removeprefix("entities/") for entity in found.entities}
                return tuple(key for key in definition.join_keys if key in entities)
        return ()
