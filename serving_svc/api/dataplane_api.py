"""`DataPlaneService`: what the gateway watches and replicas report to."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import grpc
from modelyard.dataplane.v1 import dataplane_pb2, dataplane_pb2_grpc

from service_kit.clock import Clock
from service_kit.errors import InvalidArgument
from service_kit.names import parse_name
from serving_svc.api import convert
from serving_svc.service import DataPlane

_MOST_TEXT = 256


class DataPlaneApi(dataplane_pb2_grpc.DataPlaneServiceServicer):
    """Contract in, data plane, contract out."""

    def __init__(self, dataplane: DataPlane, clock: Clock) -> None:
        self._dataplane = dataplane
        self._clock = clock

    def WatchDataPlane(
        self, _: dataplane_pb2.WatchDataPlaneRequest, context: grpc.ServicerContext
    ) -> Iterator[dataplane_pb2.DataPlaneState]:
        """Push the whole state, at once and after every change."""
        for view in self._dataplane.watch(context.is_active):
            yield convert.state_to(view)

    def ReportReplica(
        self, request: dataplane_pb2.ReportReplicaRequest, _: grpc.ServicerContext
    ) -> dataplane_pb2.ReportReplicaResponse:
        """Take a replica's word that it lives."""
        for field in ("replica_id", "address"):
            if not 0 < len(getattr(request, field)) <= _MOST_TEXT:
                raise InvalidArgument("INVALID_REPORT", "must be given", field=field)
        if len(request.runtime) > _MOST_TEXT:
            raise InvalidArgument("INVALID_REPORT", "is too long", field="runtime")
        parse_name(
            "models/{model}/versions/{version}", request.model_version, field="model_version"
        )
        replica = convert.replica_from(request, self._clock.now())
        self._dataplane.report(replica)
        return dataplane_pb2.ReportReplicaResponse(
            interval_ms=self._dataplane.interval // timedelta(milliseconds=1),
            drain=self._dataplane.relieves(replica),
        )
