"""The Open Inference Protocol over gRPC, as frames."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from inference import grpc_predict_v2_pb2 as v2

from bench.serving.contender import WORKLOADS
from bench.serving.model import Matrix
from bench.serving.requests import Exchange, grpc_frame, grpc_message

PATH = "/inference.GRPCInferenceService/ModelInfer"
HEADERS = {"content-type": "application/grpc", "te": "trailers"}


def exchanges(matrix: Matrix) -> Mapping[str, Exchange]:
    """Asks with typed contents where others send JSON, and with raw contents as binary tensors."""
    return {
        each.name: Exchange(
            PATH,
            [grpc_frame(infer_request(matrix[: each.rows], raw=each.binary))],
            [slice(0, each.rows)],
            parse,
            HEADERS,
            grpc=True,
        )
        for each in WORKLOADS
    }


def infer_request(rows: Matrix, *, raw: bool) -> bytes:
    """A request with one tensor of [n, F]."""
    request = v2.ModelInferRequest(model_name="bench")
    tensor = request.inputs.add(name="features", datatype="FP32", shape=rows.shape)
    if raw:
        request.raw_input_contents.append(rows.astype("<f4").tobytes())
    else:
        tensor.contents.fp32_contents.extend(rows.ravel().tolist())
    return bytes(request.SerializeToString())


def parse(_: Mapping[str, str], frame: bytes) -> list[float]:
    """Probabilities of an answer, typed or raw."""
    answer = v2.ModelInferResponse.FromString(grpc_message(frame))
    output = answer.outputs[0]
    if answer.raw_output_contents:
        kind = {"FP32": "<f4", "FP64": "<f8"}[output.datatype]
        values: list[float] = np.frombuffer(answer.raw_output_contents[0], kind).tolist()
        return values
    return [*output.contents.fp32_contents, *output.contents.fp64_contents]
