"""Tensors as raw little-endian bytes: in gRPC's `raw_*_contents` and in REST's binary extension."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from service_kit.errors import InvalidArgument

Array = npt.NDArray[Any]

_TYPES = {
    "BOOL": np.dtype("?"),
    "INT8": np.dtype("<i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "UINT8": np.dtype("<u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
_UPPER_HALF = 16


def read_raw(datatype: str, data: bytes | memoryview, path: str) -> Array | list[str]:
    """The elements of a tensor, flat: an array of numbers, or strings for `BYTES`.

    Raises:
        InvalidArgument: `WRONG_SHAPE` when there is half an element, `WRONG_TYPE` for bytes that
            are no UTF-8, or `UNKNOWN_DATATYPE`.
    """
    if datatype == "BYTES":
        return [decode_text(value, path) for value in _strings(bytes(data), path)]
    if datatype == "BF16":
        upper = _array(np.dtype("<u2"), data, path).astype("<u4")
        return (upper << _UPPER_HALF).view("<f4")
    kind = _TYPES.get(datatype)
    if kind is None:
        raise InvalidArgument("UNKNOWN_DATATYPE", "must be a datatype of the protocol", field=path)
    return _array(kind, data, path)


def write_raw(values: list[float] | Array) -> bytes:
    """Numbers as FP32."""
    return np.asarray(values, "<f4").tobytes()


def decode_text(value: bytes, path: str) -> str:
    """A string of the protocol.

    Raises:
        InvalidArgument: `WRONG_TYPE` when it is no UTF-8.
    """
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise InvalidArgument("WRONG_TYPE", "must be UTF-8", field=path) from None


def _array(kind: np.dtype[Any], data: bytes | memoryview, path: str) -> Array:
    if len(data) % kind.itemsize:
        raise InvalidArgument("WRONG_SHAPE", "does not hold whole elements", field=path)
    return np.frombuffer(data, kind)


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
