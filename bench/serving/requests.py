"""What is asked over the wire, and what the answers say."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bench.serving.model import Matrix

JSON_TYPE = "application/json"
OCTETS = "application/octet-stream"
HEAD_LENGTH = "Inference-Header-Content-Length"
_GRPC_PREFIX = struct.Struct(">BI")

Parse = Callable[[Mapping[str, str], bytes], list[float]]


@dataclass(frozen=True)
class Exchange:
    """Requests of one kind: the same path and headers, several bodies in turn.

    Attributes:
        rows: Which of the model's rows each body asks for.
        parse: Probabilities of an answer's headers (names in lower case) and body.
        grpc: Whether it is spoken over gRPC.
    """

    path: str
    bodies: Sequence[bytes]
    rows: Sequence[slice]
    parse: Parse
    headers: Mapping[str, str] = field(default_factory=lambda: {"Content-Type": JSON_TYPE})
    grpc: bool = False

    def with_headers(self, extra: Mapping[str, str]) -> Exchange:
        """The same with more headers."""
        return Exchange(
            self.path, self.bodies, self.rows, self.parse, {**self.headers, **extra}, self.grpc
        )


Body = Callable[[Matrix], bytes]


def exchange(path: str, matrix: Matrix, batch: int, body: Body, parse: Parse) -> Exchange:
    """Asks for a matrix in batches."""
    parts = [slice(at, at + batch) for at in range(0, len(matrix), batch)]
    return Exchange(path, [body(matrix[part]) for part in parts], parts, parse)


def v2_json(rows: Matrix) -> bytes:
    """An Open Inference Protocol request with one tensor of [n, F] as JSON."""
    tensor = {**_tensor(rows), "data": rows.astype(float).ravel().tolist()}
    return json.dumps({"inputs": [tensor]}).encode()


def v2_binary(rows: Matrix) -> tuple[bytes, int]:
    """The same with raw bytes behind a JSON head; gives the head's length too."""
    raw = rows.astype("<f4").tobytes()
    tensor = {**_tensor(rows), "parameters": {"binary_data_size": len(raw)}}
    head = {"inputs": [tensor], "parameters": {"binary_data_output": True}}
    encoded = json.dumps(head).encode()
    return encoded + raw, len(encoded)


def _tensor(rows: Matrix) -> dict[str, Any]:
    return {"name": "features", "datatype": "FP32", "shape": list(rows.shape)}


def v2_binary_exchange(path: str, matrix: Matrix) -> Exchange:
    """Asks for a whole matrix with binary tensors."""
    body, length = v2_binary(matrix)
    headers = {"Content-Type": OCTETS, HEAD_LENGTH: str(length)}
    return Exchange(path, [body], [slice(0, len(matrix))], parse_v2, headers)


def named_instances(rows: Matrix, names: Sequence[str]) -> list[dict[str, Any]]:
    """Rows as objects."""
    return [dict(zip(names, row, strict=True)) for row in rows.astype(float).tolist()]


def matrix_json(rows: Matrix) -> bytes:
    """MLflow's scoring request: a matrix as nested lists."""
    return json.dumps({"inputs": rows.astype(float).tolist()}).encode()


def parse_v2(headers: Mapping[str, str], body: bytes) -> list[float]:
    """Probabilities of an Open Inference Protocol answer, JSON or binary."""
    length = int(headers.get(HEAD_LENGTH.lower(), len(body)))
    output = json.loads(body[:length])["outputs"][0]
    if "data" in output:
        return _flat(output["data"])
    size = output["parameters"]["binary_data_size"]
    kind = {"FP32": "<f4", "FP64": "<f8"}[output["datatype"]]
    values: list[float] = np.frombuffer(body[length : length + size], kind).tolist()
    return values


def parse_mlflow(_: Mapping[str, str], body: bytes) -> list[float]:
    """Probabilities of MLflow's answer."""
    return _flat(json.loads(body)["predictions"])


def parse_predict(_: Mapping[str, str], body: bytes) -> list[float]:
    """Probabilities of the suite's friendly route."""
    return [float(each["outputs"]["score"]) for each in json.loads(body)["predictions"]]


def _flat(data: Sequence[Any]) -> list[float]:
    return [float(each) for each in np.asarray(data, dtype=float).ravel()]


def grpc_frame(message: bytes) -> bytes:
    """A message as it goes over HTTP/2: not compressed, led by its length."""
    return _GRPC_PREFIX.pack(0, len(message)) + message


def grpc_message(frame: bytes) -> bytes:
    """The message in a frame.

    Raises:
        ValueError: It is compressed or cut off.
    """
    packed, length = _GRPC_PREFIX.unpack_from(frame)
    message = frame[_GRPC_PREFIX.size :]
    if packed or len(message) != length:
        raise ValueError("not one plain frame")
    return message
