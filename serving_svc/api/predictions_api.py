"""`PredictionLogService`: what endpoints have answered, and what their shadows would have."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from modelyard.registry.v1 import registry_pb2
from modelyard.serving.v1 import predictions_pb2, predictions_pb2_grpc

from service_kit.errors import InvalidArgument
from service_kit.names import parse_name
from serving_svc.domain.predictions import LoggedRow, Value
from serving_svc.domain.shadows import Latency, ShadowComparison
from serving_svc.service.predictions import Lineage, PredictionLog, PredictionView
from serving_svc.service.shadows import ShadowService

_ENDPOINT = "endpoints/{endpoint}"
_PREDICTION = "predictions/{prediction}"


class PredictionLogApi(predictions_pb2_grpc.PredictionLogServiceServicer):
    """Contract in, lookup, contract out."""

    def __init__(self, predictions: PredictionLog, shadows: ShadowService) -> None:
        self._predictions = predictions
        self._shadows = shadows

    def GetPrediction(
        self, request: predictions_pb2.GetPredictionRequest, _: Any
    ) -> predictions_pb2.LoggedPrediction:
        """Get a prediction."""
        prediction_id = parse_name(_PREDICTION, request.name)["prediction"]
        return prediction_to(self._predictions.get_prediction(prediction_id))

    def CompareShadows(
        self, request: predictions_pb2.CompareShadowsRequest, _: Any
    ) -> predictions_pb2.CompareShadowsResponse:
        """Compare shadows."""
        found = self._shadows.compare(
            parse_name(_ENDPOINT, request.endpoint, field="endpoint")["endpoint"],
            _given_moment(request, "start_time"),
            _given_moment(request, "end_time"),
            request.threshold if request.HasField("threshold") else None,
            request.tolerance if request.HasField("tolerance") else None,
        )
        return predictions_pb2.CompareShadowsResponse(
            comparisons=map(comparison_to, found.comparisons),
            start_time=_moment(found.start),
            end_time=_moment(found.end),
            truncated=found.truncated,
        )


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
                failure=shadow.failure,
            )
            for shadow in view.shadows
        ],
        lineage=None if view.lineage_missing else _lineage_to(view.lineage),
        lineage_missing=view.lineage_missing,
        cached=row.cached,
    )


def comparison_to(found: ShadowComparison) -> predictions_pb2.ShadowComparison:
    """A comparison as callers see it."""
    made = predictions_pb2.ShadowComparison(
        variant=found.shadow.variant,
        model_version=found.shadow.model_version,
        answered_variant=found.answered.variant,
        answered_version=found.answered.model_version,
        failures=sum(found.failures.values()),
        failure_reasons=found.failures,
        latency=_latency_to(found.latency),
        answered_latency=_latency_to(found.answered_latency),
    )
    alike = found.agreement
    if alike is not None:
        made.rows = alike.rows
        made.class_agreement = alike.classes
        made.exact_agreement = alike.exact
        made.mean_difference = alike.difference
        made.mean_absolute_difference = alike.absolute
        made.rmse = alike.rmse
        if alike.interval is not None:
            made.mean_difference_lower, made.mean_difference_upper = alike.interval
        if alike.pearson is not None:
            made.pearson = alike.pearson
        if alike.spearman is not None:
            made.spearman = alike.spearman
    return made


def _latency_to(found: Latency | None) -> predictions_pb2.LatencySummary | None:
    if found is None:
        return None
    return predictions_pb2.LatencySummary(
        rows=found.rows,
        mean_us=found.mean,
        p50_us=found.p50,
        p95_us=found.p95,
        p99_us=found.p99,
    )


def _given_moment(request: predictions_pb2.CompareShadowsRequest, field: str) -> datetime | None:
    if not request.HasField(field):
        return None
    try:
        found: datetime = getattr(request, field).ToDatetime(UTC)
    except (ValueError, OverflowError):
        raise InvalidArgument("INVALID_FORMAT", "must be a timestamp", field=field) from None
    return found


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
