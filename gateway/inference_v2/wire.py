"""Tensors of the protocol's gRPC messages: typed contents and raw little-endian bytes."""

from __future__ import annotations

from typing import Any

from inference import grpc_predict_v2_pb2 as v2

from gateway.inference_v2.answers import DATATYPE, Output
from gateway.inference_v2.raw import Array, decode_text, read_raw, write_raw
from gateway.inference_v2.tensors import Tensor
from service_kit.errors import InvalidArgument

_CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


def read_tensors(request: v2.ModelInferRequest) -> list[Tensor]:
    """The inputs of a request.

    Raises:
        InvalidArgument: Naming the input at fault.
    """
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise InvalidArgument(
            "WRONG_COUNT", "must be one for each input", field="raw_input_contents"
        )
    found = []
    for index, each in enumerate(request.inputs):
        path = f"inputs[{index}]"
        data: Array | list[Any]
        if raw:
            data = read_raw(each.datatype, raw[index], f"raw_input_contents[{index}]")
        else:
            data = _from_contents(each, path)
        found.append(Tensor(each.name, each.datatype, list(each.shape), data))
    return found


def add_output(response: v2.ModelInferResponse, found: Output, *, raw: bool) -> None:
    """Put an FP32 output into an answer, in the way that the request had its inputs."""
    output = response.outputs.add(name=found.name, datatype=DATATYPE, shape=found.shape)
    if not raw:
        output.contents.fp32_contents.extend(found.data)
        return
    response.raw_output_contents.append(write_raw(found.data))


def _from_contents(tensor: Any, path: str) -> list[Any]:
    name = _CONTENTS.get(tensor.datatype)
    if name is None:
        raise _unknown(f"{path}.datatype")
    values = list(getattr(tensor.contents, name))
    return (
        [decode_text(value, f"{path}.contents") for value in values] if name[:2] == "by" else values
    )


def _unknown(path: str) -> InvalidArgument:
    return InvalidArgument("UNKNOWN_DATATYPE", "must be a datatype of the protocol", field=path)
