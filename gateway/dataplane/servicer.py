"""`PredictionService` over gRPC."""

# ruff: noqa: N802 - the names and forms that generated code asks for

from __future__ import annotations

from typing import Any

from google.protobuf import struct_pb2
from modelyard.serving.v1 import serving_pb2, serving_pb2_grpc

from gateway.dataplane.ask import Ask
from gateway.dataplane.core import DataPlane
from gateway.dataplane.predict_json import answer_document
from gateway.dataplane.units import take_header
from gateway.grpc_door import metadata_value, time_left
from gateway.transcoder.codec import codec_of
from service_kit.errors import InvalidArgument


class PredictionServicer(serving_pb2_grpc.PredictionServiceServicer):
    """Answers by the data plane, through the same documents as REST."""

    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane
        self._response = codec_of(serving_pb2.PredictResponse.DESCRIPTOR)

    async def Predict(
        self, request: serving_pb2.PredictRequest, context: Any
    ) -> serving_pb2.PredictResponse:
        """Predict."""
        began, limit = time_left(context)
        times = [_micros(each, f"event_times[{i}]") for i, each in enumerate(request.event_times)]
        ask = Ask(
            request.endpoint.removeprefix("endpoints/"),
            [_instance(each) for each in request.instances],
            event_times_us=times or None,
            return_features=request.return_features,
            began=began,
            time_limit=limit,
        )
        header = self._plane.routing_header(ask.endpoint)
        take_header(ask, metadata_value(context, header), header)
        answer = await self._plane.predict(ask)
        response = serving_pb2.PredictResponse()
        document = answer_document(answer, return_features=request.return_features)
        self._response.fill(response, document, "")
        return response


def _instance(message: struct_pb2.Struct) -> dict[str, Any]:
    return {name: _value(value) for name, value in message.fields.items()}


def _value(message: struct_pb2.Value) -> Any:
    kind = message.WhichOneof("kind")
    value: Any = getattr(message, kind) if kind and kind != "null_value" else None
    # A Struct knows no integers, but an entity key may be one.
    if kind == "number_value" and value.is_integer() and abs(value) < 2**53:
        return int(value)
    return value


def _micros(message: Any, path: str) -> int:
    try:
        return int(message.ToMicroseconds())
    except ValueError:
        raise InvalidArgument("INVALID_FORMAT", "must be a timestamp", field=path) from None
