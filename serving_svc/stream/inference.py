"""Predictions by the gateway, for events."""

from __future__ import annotations

from collections.abc import Sequence

from modelyard.dataplane.v1 import dataplane_pb2, dataplane_pb2_grpc

from service_kit.channels import Peers, calling
from serving_svc.domain.scorer_events import Answer, Event, Fate, Prediction, Problem

_FATES = {
    dataplane_pb2.ScoredEvent.OUTCOME_REFUSED: Fate.REFUSED,
    dataplane_pb2.ScoredEvent.OUTCOME_FAILED: Fate.FAILED,
}


class GatewayInference:
    """Asks the gateway, as the endpoint's callers do.

    Args:
        timeout: Seconds that one call may take.
    """

    def __init__(self, peers: Peers, timeout: float) -> None:
        self._peers = peers
        self._timeout = timeout

    def score(self, endpoint_id: str, events: Sequence[Event]) -> Sequence[Answer]:
        """One answer an event; raises DomainError when there is none for any."""
        request = dataplane_pb2.ScoreEventsRequest(
            endpoint=f"endpoints/{endpoint_id}",
            instances=b"[" + b",".join(event.instance for event in events) + b"]",
            prediction_ids=[event.prediction_id for event in events],
            event_times_us=[event.time_us for event in events],
        )
        stub = dataplane_pb2_grpc.EventScoringServiceStub(self._peers.channel("gateway"))
        with calling("gateway"):
            response = stub.ScoreEvents(request, timeout=self._timeout)
        return [_answer(each) for each in response.events]


def _answer(event: dataplane_pb2.ScoredEvent) -> Answer:
    if event.outcome == dataplane_pb2.ScoredEvent.OUTCOME_SCORED:
        return Prediction(
            outputs=dict(event.outputs),
            variant=event.variant,
            model_version=event.model_version,
            fallback=event.fallback,
            table_generation=event.table_generation,
        )
    fate = _FATES.get(event.outcome, Fate.UNAVAILABLE)
    return Problem(fate, event.error_reason, event.error_field)
