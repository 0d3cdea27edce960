"""Tensors of the protocol's gRPC messages: typed contents and raw little-endian bytes."""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Iterator
from typing import Any

from inference import grpc_predict_v2_pb2 as v2

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
_CODES = {
    "INT8": "b",
    "INT16": "h",
    "INT32": "i",
    "INT64": "q",
    "UINT8": "B",
    "UINT16": "H",
    "UINT32": "I",
    "UINT64": "Q",
    "FP32": "f",
    "FP64": "d",
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
        if raw:
            data = _from_raw(each.datatype, raw[index], f"raw_input_contents[{index}]")
        else:
            data = _from_contents(each, path)
        found.append(Tensor(each.name, each.datatype, list(each.shape), data))
    return found


def add_output(response: v2.ModelInferResponse, tensor: Tensor, *, raw: bool) -> None:
    """Put an FP32 output into an answer, in the way that the request had its inputs."""
    output = response.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
    if not raw:
        output.contents.fp32_contents.extend(tensor.data)
        return
    flat = array("f", tensor.data)
    if sys.byteorder == "big":
        flat.byteswap()
    response.raw_output_contents.append(flat.tobytes())


def _from_contents(tensor: Any, path: str) -> list[Any]:
    name = _CONTENTS.get(tensor.datatype)
    if name is None:
        raise _unknown(f"{path}.datatype")
    values = list(getattr(tensor.contents, name))
    return [_decoded(value, f"{path}.contents") for value in values] if name[:2] == "by" else values


def _from_raw(datatype: str, data: bytes, path: str) -> list[Any]:
    if datatype == "BYTES":
        return [_decoded(value, path) for value in _strings(data, path)]
    code = _CODES.get(datatype)
    if code is None:
        raise _unknown(path)
    values = array(code)
    if len(data) % values.itemsize:
        raise InvalidArgument("WRONG_SHAPE", "does not hold whole elements", field=path)
    values.frombytes(data)
    if sys.byteorder == "big":
        values.byteswap()
    return values.tolist()


def _strings(data: bytes, path: str) -> Iterator[bytes]:
    # Each string is led by its length, four bytes, little-endian.
    at = 0
    while at < len(data):
        end = at + 4
        if end <= len(data):
            end += struct.unpack_from("<I", data, at)[0]
        if end > len(data) or end < at + 4:
            raise InvalidArgument("WRONG_SHAPE", "does not hold whole elements", field=path)
        yield data[at + 4 : end]
        at = end


def _decoded(value: bytes, path: str) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise InvalidArgument("WRONG_TYPE", "must be UTF-8", field=path) from None


def _unknown(path: str) -> InvalidArgument:
    return InvalidArgument("UNKNOWN_DATATYPE", "must be a number type or BYTES", field=path)
