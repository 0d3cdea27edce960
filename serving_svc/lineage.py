"""The lineage of versions, from the registry; what a version was made of never changes."""

from __future__ import annotations

import threading
from collections import OrderedDict

from modelyard.registry.v1 import registry_pb2, registry_pb2_grpc

from service_kit.channels import Peers, calling
from serving_svc.service.predictions import Lineage

MOST_KEPT = 1_000
TIMEOUT_S = 2.0


class GrpcLineages:
    """Asks the registry once for each version, as long as it is among those asked for last."""

    def __init__(self, peers: Peers) -> None:
        self._peers = peers
        self._kept: OrderedDict[str, Lineage] = OrderedDict()
        self._lock = threading.Lock()

    def lineage(self, version: str) -> Lineage:
        """The lineage of a version; raises what the registry raises."""
        with self._lock:
            kept = self._kept.get(version)
            if kept is not None:
                self._kept.move_to_end(version)
                return kept
        found = self._ask(version)
        with self._lock:
            self._kept[version] = found
            if len(self._kept) > MOST_KEPT:
                self._kept.popitem(last=False)
        return found

    def _ask(self, version: str) -> Lineage:
        stub = registry_pb2_grpc.RegistryServiceStub(self._peers.channel("registry"))
        request = registry_pb2.GetLineageRequest(name=version)
        with calling("registry"):
            graph = stub.GetLineage(request, timeout=TIMEOUT_S)
        return Lineage(
            nodes=tuple((node.name, node.kind) for node in graph.nodes),
            edges=tuple((edge.source, edge.target) for edge in graph.edges),
        )
