"""The other services: registry, training, serving and features, over their contracts."""

from __future__ import annotations

from modelyard.features.v1 import features_pb2, features_pb2_grpc
from modelyard.registry.v1 import registry_pb2, registry_pb2_grpc
from modelyard.serving.v1 import serving_pb2, serving_pb2_grpc
from modelyard.training.v1 import training_pb2, training_pb2_grpc

from monitor_svc.domain.alerts import Action, Alert
from monitor_svc.domain.monitors import Monitor
from monitor_svc.events import alert_name, timestamp
from monitor_svc.rows import from_arrow_streams
from monitor_svc.service.ports import ReferenceRows
from service_kit.channels import Peers, calling

#: Seconds for the rows of a training set.
READ_TIMEOUT_S = 60.0
_LONGEST_REASON = 500


class Retraining:
    """Starts a pipeline whose data ends with the window that raised the alert."""

    def __init__(self, peers: Peers) -> None:
        self._peers = peers

    def __call__(self, action: Action, alert: Alert, monitor: Monitor) -> str:
        """Start it and give the name of the run."""
        del monitor
        stub = training_pb2_grpc.TrainingServiceStub(self._peers.channel("training"))
        request = training_pb2.RunPipelineRequest(
            pipeline=action.policy.pipeline,
            window_end=timestamp(action.event_us),
            trigger=training_pb2.Trigger(
                kind=training_pb2.Trigger.KIND_DRIFT,
                reason=action.why[:_LONGEST_REASON],
                source=alert_name(alert),
            ),
            request_id=action.request_id,
        )
        with calling("training"):
            return str(stub.RunPipeline(request).name)


class Rollback:
    """Puts the endpoint back to its last good traffic table."""

    def __init__(self, peers: Peers) -> None:
        self._peers = peers

    def __call__(self, action: Action, alert: Alert, monitor: Monitor) -> str:
        """Roll back."""
        stub = serving_pb2_grpc.ServingServiceStub(self._peers.channel("serving"))
        request = serving_pb2.RollbackEndpointRequest(
            endpoint=monitor.endpoint,
            reason=f"{alert_name(alert)}: {action.why}"[:_LONGEST_REASON],
            request_id=action.request_id,
        )
        with calling("serving"):
            stub.RollbackEndpoint(request)
        return f"rolled back {monitor.endpoint}"


class RegistryLineages:
    """Lineage as the registry keeps it."""

    def __init__(self, peers: Peers) -> None:
        self._peers = peers

    def training_set(self, version: str) -> str:
        """The training set of a version, empty when its lineage names none."""
        stub = registry_pb2_grpc.RegistryServiceStub(self._peers.channel("registry"))
        request = registry_pb2.GetModelVersionRequest(name=version)
        with calling("registry"):
            return str(stub.GetModelVersion(request).lineage.training_set)


class FeatureServiceTrainingSets:
    """Training sets as the feature service keeps them."""

    def __init__(self, peers: Peers) -> None:
        self._peers = peers

    def read(self, name: str, max_rows: int) -> ReferenceRows:
        """At most so many rows, evenly spread over the set."""
        stub = features_pb2_grpc.FeatureServiceStub(self._peers.channel("features"))
        request = features_pb2.ReadTrainingSetRequest(name=name, max_rows=max_rows)
        with calling("features"):
            chunks = stub.ReadTrainingSet(request, timeout=READ_TIMEOUT_S)
            try:
                return from_arrow_streams(chunk.arrow_ipc for chunk in chunks)
            finally:
                # Does nothing once the stream is over.
                chunks.cancel()
