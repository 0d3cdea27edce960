"""Tensors of the protocol to requests of the data plane, and answers back to tensors.

A model is an endpoint. Inputs come either as one tensor per input field, by name and of shape [n]
or [n, 1], or as one tensor `features` of shape [n, F] that holds the matrix as the model sees it.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

from gateway.dataplane.ask import MOST_ROWS, Answer, Ask
from gateway.dataplane.inputs import FLOAT32_MAX
from gateway.dataplane.predict_json import parse_time
from gateway.dataplane.routing import Route
from service_kit.errors import InvalidArgument

MATRIX = "features"
#: Parameter of a request: when what is predicted about happens (RFC 3339); now when absent.
EVENT_TIME = "event_time"
FLOATS = frozenset(("FP16", "FP32", "FP64"))
INTEGERS = {
    **{f"INT{bits}": (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) for bits in (8, 16, 32, 64)},
    **{f"UINT{bits}": (0, 2**bits - 1) for bits in (8, 16, 32, 64)},
}
_MOST_TENSORS = 1_000
_MOST_COLUMNS = 10_000


@dataclass(slots=True)
class Tensor:
    """A named tensor; `data` is flat and row-major, its elements are numbers or strings."""

    name: str
    datatype: str
    shape: Sequence[int]
    data: list[Any]


def make_ask(
    route: Route, endpoint: str, version: str, tensors: Sequence[Tensor], began: float, limit: float
) -> Ask:
    """The request that tensors make.

    Raises:
        InvalidArgument: Naming the tensor (`inputs[0].shape`, ...) at fault.
    """
    if not 1 <= len(tensors) <= _MOST_TENSORS:
        raise InvalidArgument("WRONG_COUNT", "must be at least one tensor", field="inputs")
    for index, tensor in enumerate(tensors):
        check_tensor(tensor, f"inputs[{index}]")
    if len(tensors) == 1 and tensors[0].name == MATRIX and MATRIX not in route.accepted:
        matrix, rows = _matrix(tensors[0])
        return Ask(
            endpoint,
            [{}] * rows,
            version=version,
            matrix=matrix,
            where=_matrix_path,
            began=began,
            time_limit=limit,
        )
    places = _places(tensors)
    rows = tensors[0].shape[0]
    columns = [tensor.data for tensor in tensors]
    names = list(places)
    return Ask(
        endpoint,
        [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]
        if rows
        else [],
        version=version,
        where=lambda row, name: f"inputs[{places[name]}].data[{row}]" if name in places else name,
        began=began,
        time_limit=limit,
    )


def event_times(given: Any, rows: int) -> list[int] | None:
    """The event time of each row (microseconds) by the request's parameter; None without one.

    Raises:
        InvalidArgument: `WRONG_TYPE` or `INVALID_FORMAT`.
    """
    if given is None:
        return None
    return [parse_time(given, f"parameters.{EVENT_TIME}")] * rows


def check_tensor(tensor: Tensor, path: str) -> None:
    """Refuse a tensor whose data do not fit its type or shape.

    Raises:
        InvalidArgument: `WRONG_SHAPE`, `WRONG_TYPE`, `NOT_FINITE`, `OUT_OF_RANGE`, or
            `UNKNOWN_DATATYPE`.
    """
    size = 1
    for length in tensor.shape:
        size *= length
    if not 1 <= len(tensor.shape) <= 2 or size != len(tensor.data):
        raise InvalidArgument("WRONG_SHAPE", "does not fit the data", field=f"{path}.shape")
    if not 1 <= tensor.shape[0] <= MOST_ROWS or size > MOST_ROWS * _MOST_COLUMNS:
        raise InvalidArgument(
            "WRONG_COUNT", f"must have 1 to {MOST_ROWS} rows", field=f"{path}.shape"
        )
    kind = tensor.datatype
    if kind in FLOATS:
        _check_floats(tensor.data, f"{path}.data")
    elif kind in INTEGERS:
        _check_integers(tensor.data, INTEGERS[kind], f"{path}.data")
    elif kind == "BYTES":
        if not {str}.issuperset(map(type, tensor.data)):
            raise InvalidArgument("WRONG_TYPE", "must be strings", field=f"{path}.data")
    else:
        raise InvalidArgument(
            "UNKNOWN_DATATYPE", "must be a number type or BYTES", field=f"{path}.datatype"
        )


def output_tensors(answer: Answer) -> list[Tensor]:
    """The outputs of an answer, one tensor an output, of shape [n].

    Rows that different versions answered are joined by the names of the outputs; a version
    without an output leaves NaN out of the question by not being joined at all.
    """
    names = list(answer.scored[0].output_names)
    for group in answer.scored[1:]:
        names = [name for name in names if name in group.output_names]
    rows = [
        dict(zip(group.output_names, group.outputs[at], strict=False))
        for group, at in answer.places()
    ]
    return [
        Tensor(name, "FP32", [len(rows)], [row[name] for row in rows])
        for name in names
        if all(name in row for row in rows)
    ]


def parameters(answer: Answer) -> dict[str, str]:
    """What the answer says of itself: a value, or one a row with commas between them."""
    groups = [group for group, _ in answer.places()]
    return {
        "endpoint": answer.route.endpoint,
        "table_generation": str(answer.route.generation),
        "prediction_ids": ",".join(answer.ids),
        "variant": _joined([each.served.name if each.served else "" for each in groups]),
        "model_version": served_version(answer),
        "fallback": _joined([each.fallback for each in groups]),
    }


def served_version(answer: Answer) -> str:
    """The version that answered; with commas when there were several."""
    served = [group.served for group, _ in answer.places()]
    return _joined([variant.version if variant else "" for variant in served])


def requested(tensors: list[Tensor], names: Sequence[str]) -> list[Tensor]:
    """The outputs that were asked for, in that order; all when none is named.

    Raises:
        InvalidArgument: `UNKNOWN_OUTPUT`.
    """
    if not names:
        return tensors
    known = {tensor.name: tensor for tensor in tensors}
    for index, name in enumerate(names):
        if name not in known:
            raise InvalidArgument(
                "UNKNOWN_OUTPUT", "there is no such output", field=f"outputs[{index}].name"
            )
    return [known[name] for name in names]


def input_metadata(route: Route) -> list[tuple[str, str, list[int]]]:
    """Name, datatype and shape of what the champion wants."""
    plan = route.champion.plan
    fields = {field.name: "FP64" if field.codes is None else "BYTES" for field in plan.given}
    keys = {key: "BYTES" for key in plan.entity_keys if key not in fields}
    return [(name, kind, [-1]) for name, kind in (keys | fields).items()]


def output_metadata(route: Route) -> list[tuple[str, str, list[int]]]:
    """Name, datatype and shape of what the champion answers."""
    return [(name, "FP32", [-1]) for name in route.champion.plan.outputs]


def _matrix_path(row: int, name: str) -> str:
    return f"inputs[0].data[{row}].{name}"


def _joined(values: list[str]) -> str:
    return values[0] if len(set(values)) == 1 else ",".join(values)


def _places(tensors: Sequence[Tensor]) -> dict[str, int]:
    places: dict[str, int] = {}
    for index, tensor in enumerate(tensors):
        path = f"inputs[{index}]"
        if tensor.name in places:
            raise InvalidArgument("DUPLICATE_FIELD", "is given twice", field=f"{path}.name")
        if len(tensor.shape) == 2 and tensor.shape[1] != 1:
            raise InvalidArgument("WRONG_SHAPE", "must be [n] or [n, 1]", field=f"{path}.shape")
        if tensor.shape[0] != tensors[0].shape[0]:
            raise InvalidArgument(
                "WRONG_SHAPE", "must have as many rows as the first", field=f"{path}.shape"
            )
        places[tensor.name] = index
    return places


def _matrix(tensor: Tensor) -> tuple[bytes, int]:
    if len(tensor.shape) != 2 or tensor.datatype not in ("FP32", "FP64"):
        raise InvalidArgument(
            "WRONG_SHAPE", "must be FP32 or FP64 of shape [n, F]", field="inputs[0].shape"
        )
    if not all(-FLOAT32_MAX <= value <= FLOAT32_MAX for value in tensor.data):
        raise InvalidArgument(
            "OUT_OF_RANGE", "is too large for a 32-bit float", field="inputs[0].data"
        )
    flat = array("f", tensor.data)
    if sys.byteorder == "big":
        flat.byteswap()
    return flat.tobytes(), tensor.shape[0]


def _check_floats(data: list[Any], path: str) -> None:
    if not {int, float}.issuperset(map(type, data)):
        raise InvalidArgument("WRONG_TYPE", "must be finite numbers", field=path)
    try:
        finite = all(map(isfinite, data))
    except OverflowError:
        finite = False
    if not finite:
        raise InvalidArgument("NOT_FINITE", "must be finite numbers", field=path)


def _check_integers(data: list[Any], bounds: tuple[int, int], path: str) -> None:
    if not {int}.issuperset(map(type, data)):
        raise InvalidArgument("WRONG_TYPE", "must be integers", field=path)
    if data and not (bounds[0] <= min(data) and max(data) <= bounds[1]):
        raise InvalidArgument("OUT_OF_RANGE", "does not fit its datatype", field=path)
