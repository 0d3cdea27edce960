"""Tensors of the protocol to requests of the data plane.

A model is an endpoint. Inputs come either as one tensor per input field, by name and of shape [n]
or [n, 1], or as one tensor `features` of shape [n, F] that holds the matrix as the model sees it;
a tensor with the values of the endpoint's routing key may follow it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite, prod
from typing import Any

import numpy as np

from gateway.dataplane.ask import MOST_ROWS, Ask
from gateway.dataplane.inputs import FLOAT32_MAX, Where, encode_floats
from gateway.dataplane.predict_json import parse_time
from gateway.dataplane.routing import Route
from gateway.inference_v2.raw import Array
from service_kit.errors import InvalidArgument

MATRIX = "features"
#: Parameter of a request: when what is predicted about happens (RFC 3339); now when absent.
EVENT_TIME = "event_time"
FLOATS = frozenset(("BF16", "FP16", "FP32", "FP64"))
_NUMBERS = frozenset((int, float))
_FLOAT32 = np.dtype("<f4")
INTEGERS = {
    **{f"INT{bits}": (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) for bits in (8, 16, 32, 64)},
    **{f"UINT{bits}": (0, 2**bits - 1) for bits in (8, 16, 32, 64)},
}
_MOST_TENSORS = 1_000
_MOST_COLUMNS = 10_000


@dataclass(slots=True)
class Tensor:
    """A named tensor.

    Attributes:
        data: Flat and row-major: numbers, booleans or strings; an array when it came as bytes.
        numeric: Whether `data` is known to hold integers and floats only.
    """

    name: str
    datatype: str
    shape: Sequence[int]
    data: list[Any] | Array
    numeric: bool = False


def make_ask(
    route: Route, endpoint: str, version: str, tensors: Sequence[Tensor], began: float, limit: float
) -> Ask:
    """The request that tensors make.

    Raises:
        InvalidArgument: Naming the tensor (`inputs[0].shape`, ...) at fault.
    """
    if not 1 <= len(tensors) <= _MOST_TENSORS:
        raise InvalidArgument("WRONG_COUNT", "must be at least one tensor", field="inputs")
    if tensors[0].name == MATRIX and MATRIX not in route.accepted:
        key = route.routing_key
        if len(tensors) == 1 or (len(tensors) == 2 and key and tensors[1].name == key):
            return _matrix_ask(endpoint, version, tensors, began, limit)
    for index, tensor in enumerate(tensors):
        check_tensor(tensor, f"inputs[{index}]")
    places = _places(tensors)
    return Ask(
        endpoint,
        _rows(tensors),
        version=version,
        where=lambda row, name: f"inputs[{places[name]}].data[{row}]" if name in places else name,
        began=began,
        time_limit=limit,
    )


def _matrix_ask(
    endpoint: str, version: str, tensors: Sequence[Tensor], began: float, limit: float
) -> Ask:
    """The request that a matrix makes, with the tensor of the routing key when there is one."""
    _check_size(tensors[0], "inputs[0]")
    matrix, rows = _matrix(tensors[0])
    where: Where = _matrix_path
    instances: list[dict[str, Any]] = [{}] * rows
    if len(tensors) > 1:
        check_tensor(tensors[1], "inputs[1]")
        _check_column(tensors[1], rows, "inputs[1]")
        instances, where = _rows(tensors[1:]), lambda row, _: f"inputs[1].data[{row}]"
    return Ask(
        endpoint,
        instances,
        version=version,
        matrix=matrix,
        where=where,
        began=began,
        time_limit=limit,
    )


def set_event_time(ask: Ask, given: Any) -> None:
    """Take the event time of all rows from the request's parameter, if it has one.

    Raises:
        InvalidArgument: `WRONG_TYPE` or `INVALID_FORMAT`.
    """
    if given is not None:
        path = f"parameters.{EVENT_TIME}"
        ask.event_times_us = [parse_time(given, path)] * len(ask.instances)
        ask.where_time = lambda _: path


def check_tensor(tensor: Tensor, path: str) -> None:
    """Refuse a tensor whose data do not fit its type or shape.

    Raises:
        InvalidArgument: `WRONG_SHAPE`, `WRONG_TYPE`, `NOT_FINITE`, `OUT_OF_RANGE`, or
            `UNKNOWN_DATATYPE`.
    """
    _check_size(tensor, path)
    kind, where = tensor.datatype, f"{path}.data"
    if kind in FLOATS:
        check_floats(tensor.data, where)
    elif kind in INTEGERS:
        _check_integers(tensor.data, INTEGERS[kind], where)
    elif kind == "BOOL":
        if isinstance(tensor.data, list) and not {bool}.issuperset(map(type, tensor.data)):
            raise InvalidArgument("WRONG_TYPE", "must be true or false", field=where)
    elif kind == "BYTES":
        if not {str}.issuperset(map(type, tensor.data)):
            raise InvalidArgument("WRONG_TYPE", "must be strings", field=where)
    else:
        raise InvalidArgument(
            "UNKNOWN_DATATYPE", "must be a datatype of the protocol", field=f"{path}.datatype"
        )


def _check_size(tensor: Tensor, path: str) -> None:
    size = prod(tensor.shape)
    if not 1 <= len(tensor.shape) <= 2 or size != len(tensor.data):
        raise InvalidArgument("WRONG_SHAPE", "does not fit the data", field=f"{path}.shape")
    if not 1 <= tensor.shape[0] <= MOST_ROWS or size > MOST_ROWS * _MOST_COLUMNS:
        raise InvalidArgument(
            "WRONG_COUNT", f"must have 1 to {MOST_ROWS} rows", field=f"{path}.shape"
        )


def _matrix_path(row: int, name: str) -> str:
    return f"inputs[0].data[{row}].{name}"


def _places(tensors: Sequence[Tensor]) -> dict[str, int]:
    places: dict[str, int] = {}
    for index, tensor in enumerate(tensors):
        path = f"inputs[{index}]"
        if tensor.name in places:
            raise InvalidArgument("DUPLICATE_FIELD", "is given twice", field=f"{path}.name")
        _check_column(tensor, tensors[0].shape[0], path)
        places[tensor.name] = index
    return places


def _check_column(tensor: Tensor, rows: int, path: str) -> None:
    if len(tensor.shape) > 1 and tensor.shape[1] != 1:
        raise InvalidArgument("WRONG_SHAPE", "must be [n] or [n, 1]", field=f"{path}.shape")
    if tensor.shape[0] != rows:
        raise InvalidArgument(
            "WRONG_SHAPE", "must have as many rows as the first", field=f"{path}.shape"
        )


def _rows(tensors: Sequence[Tensor]) -> list[dict[str, Any]]:
    names = [tensor.name for tensor in tensors]
    columns = [_values(tensor) for tensor in tensors]
    return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]


def _matrix(tensor: Tensor) -> tuple[bytes, int]:
    if len(tensor.shape) != 2 or tensor.datatype not in FLOATS:
        raise InvalidArgument(
            "WRONG_SHAPE", "must be floats of shape [n, F]", field="inputs[0].shape"
        )
    data = tensor.data
    check_floats(data, "inputs[0].data", numeric=tensor.numeric)
    try:
        return _float32(data), tensor.shape[0]
    except OverflowError as error:
        raise InvalidArgument(
            "OUT_OF_RANGE", "is too large for a 32-bit float", field="inputs[0].data"
        ) from error


def _float32(data: list[Any] | Array) -> bytes:
    """Numbers as float32, little-endian; raises OverflowError for one that is too large."""
    if isinstance(data, list):
        return encode_floats(data)
    if data.dtype != _FLOAT32 and (np.abs(data) > FLOAT32_MAX).any():
        raise OverflowError
    return data.astype(_FLOAT32, copy=False).tobytes()


def check_floats(data: list[Any] | Array, path: str, *, numeric: bool = False) -> None:
    """Refuse what is no finite number.

    Args:
        numeric: Whether they are known to be integers and floats.

    Raises:
        InvalidArgument: `WRONG_TYPE` or `NOT_FINITE`.
    """
    if isinstance(data, list):
        if not numeric and not _NUMBERS.issuperset(map(type, data)):
            raise InvalidArgument("WRONG_TYPE", "must be finite numbers", field=path)
        try:
            # A sum is finite when all are; it takes a fraction of the time of asking each.
            finite = isfinite(sum(data)) or all(map(isfinite, data))
        except OverflowError:
            finite = False
    else:
        finite = bool(np.isfinite(data).all())
    if not finite:
        raise InvalidArgument("NOT_FINITE", "must be finite numbers", field=path)


def _check_integers(data: list[Any] | Array, bounds: tuple[int, int], path: str) -> None:
    if not isinstance(data, list):
        return  # every value of an array fits its type
    if not {int}.issuperset(map(type, data)):
        raise InvalidArgument("WRONG_TYPE", "must be integers", field=path)
    if data and not (bounds[0] <= min(data) and max(data) <= bounds[1]):
        raise InvalidArgument("OUT_OF_RANGE", "does not fit its datatype", field=path)


def _values(tensor: Tensor) -> list[Any]:
    data = tensor.data if isinstance(tensor.data, list) else tensor.data.tolist()
    return list(map(int, data)) if tensor.datatype == "BOOL" else data
