"""The protocol's gRPC service."""

# ruff: noqa: N802, ARG002 - the names and forms that generated code asks for

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from inference import grpc_predict_v2_pb2 as v2
from inference import grpc_predict_v2_pb2_grpc

from gateway.dataplane.core import DataPlane
from gateway.dataplane.units import PARAMETER, take_header, take_parameter
from gateway.grpc_door import metadata_value, time_left
from gateway.inference_v2 import answers, tensors
from gateway.inference_v2.wire import add_output, read_tensors

Metadata = v2.ModelMetadataResponse.TensorMetadata


class InferenceServicer(grpc_predict_v2_pb2_grpc.GRPCInferenceServiceServicer):
    """Answers by the data plane.

    Args:
        ready: Whether the gateway takes requests.
    """

    def __init__(self, plane: DataPlane, ready: Callable[[], bool], version: str) -> None:
        self._plane = plane
        self._ready = ready
        self._version = version

    async def ServerLive(self, request: Any, context: Any) -> v2.ServerLiveResponse:
        """It answers, so it lives."""
        return v2.ServerLiveResponse(live=True)

    async def ServerReady(self, request: Any, context: Any) -> v2.ServerReadyResponse:
        """Whether the gateway takes requests."""
        return v2.ServerReadyResponse(ready=self._ready())

    async def ServerMetadata(self, request: Any, context: Any) -> v2.ServerMetadataResponse:
        """What the server is."""
        return v2.ServerMetadataResponse(name="modelyard", version=self._version)

    async def ModelReady(self, request: Any, context: Any) -> v2.ModelReadyResponse:
        """Whether an endpoint can answer."""
        return v2.ModelReadyResponse(ready=self._plane.ready(request.name, request.version))

    async def ModelMetadata(self, request: Any, context: Any) -> v2.ModelMetadataResponse:
        """What an endpoint wants and gives."""
        route = self._plane.route(request.name)
        if request.version:
            route.with_version(request.version)
        return v2.ModelMetadataResponse(
            name=request.name,
            versions=[variant.version for variant in route.variants],
            platform="modelyard",
            inputs=[_metadata(*each) for each in answers.input_metadata(route)],
            outputs=[_metadata(*each) for each in answers.output_metadata(route)],
        )

    async def ModelInfer(
        self, request: v2.ModelInferRequest, context: Any
    ) -> v2.ModelInferResponse:
        """Infer."""
        began, limit = time_left(context)
        route = self._plane.route(request.model_name)
        ask = tensors.make_ask(
            route,
            request.model_name,
            request.model_version,
            read_tensors(request),
            began,
            limit,
        )
        if tensors.EVENT_TIME in request.parameters:
            tensors.set_event_time(ask, request.parameters[tensors.EVENT_TIME].string_param)
        if PARAMETER in request.parameters:
            take_parameter(ask, _value(request.parameters[PARAMETER]))
        take_header(ask, metadata_value(context, route.routing_header), route.routing_header)
        answer = await self._plane.predict(ask)
        response = v2.ModelInferResponse(
            model_name=request.model_name,
            model_version=answers.served_version(answer),
            id=request.id,
        )
        for name, value in answers.parameters(answer).items():
            response.parameters[name].string_param = value
        wanted = [each.name for each in request.outputs]
        raw = bool(request.raw_input_contents)
        for tensor in answers.requested(answers.output_tensors(answer), wanted):
            add_output(response, tensor, raw=raw)
        return response


def _value(parameter: v2.InferParameter) -> Any:
    kind = parameter.WhichOneof("parameter_choice")
    return getattr(parameter, kind) if kind else None


def _metadata(name: str, datatype: str, shape: list[int]) -> Metadata:
    return Metadata(name=name, datatype=datatype, shape=shape)
