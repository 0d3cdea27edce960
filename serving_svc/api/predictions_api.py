"""`PredictionLogService`: what endpoints have answered."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from modelyard.registry.v1 import registry_pb2
from modelyard.serving.v1 import predictions_pb2, predictions_pb2_grpc

from service_kit.names import parse_name
from serving_svc.domain.predictions import LoggedRow, Value
from serving_svc.service.predictions import Lineage, PredictionLog, PredictionView

_PREDICTION = "predictions/{prediction}"


class PredictionLogApi(predictions_pb2_grpc.PredictionLogServiceServicer):
    """Contract in, lookup, contract out."""

    def __init__(self, predictions: PredictionLog) -> None:
        self._predictions = predictions

    def GetPrediction(
        self, request: predictions_pb2.GetPredictionRequest, _: Any
    ) -> predictions_pb2.LoggedPrediction:
        """Get a prediction."""
        prediction_id = parse_name(_PREDICTION, request.name)["prediction"]
        return prediction_to(self._predictions.get_prediction(prediction_id))


def prediction_to(view: PredictionView) -> predictions_pb2.LoggedPrediction:
    """A prediction as callers see it."""
    row = view.row
    return predictions_pb2.LoggedPrediction(
        name=f"predictions/{row.prediction_id}",
        endpoint=f"endpoints/{row.endpoint_id}",
        variant=row.variant,
        model_version=row.model_version,
        score=row.score,
        inputs=[_input_to(row, name, value) for name, value in row.inputs.items()],
        unit_id=row.unit_id,
        event_time=_moment(row.event_time),
        create_time=_moment(view.asked),
        latency_us=row.latency_us,
        fallback=row.fallback,
        table_generation=row.table_generation,
        shadows=[
            predictions_pb2.ShadowAnswer(
                variant=shadow.variant,
                model_version=shadow.model_version,
                score=shadow.score,
                latency_us=shadow.latency_us,
            )
            for shadow in view.shadows
        ],
        lineage=None if view.lineage_missing else _lineage_to(view.lineage),
        lineage_missing=view.lineage_missing,
    )


def _input_to(row: LoggedRow, name: str, value: Value) -> predictions_pb2.PredictionInput:
    known = row.known.get(name)
    return predictions_pb2.PredictionInput(
        name=name,
        number=None if isinstance(value, str) else value,
        text=value if isinstance(value, str) else None,
        known_time=_moment(known) if known else None,
    )


def _lineage_to(lineage: Lineage) -> registry_pb2.LineageGraph:
    return registry_pb2.LineageGraph(
        nodes=[registry_pb2.LineageNode(name=name, kind=kind) for name, kind in lineage.nodes],
        edges=[registry_pb2.LineageEdge(source=source, target=to) for source, to in lineage.edges],
    )


def _moment(at: datetime) -> Timestamp:
    message = Timestamp()
    message.FromDatetime(at)
    return message
