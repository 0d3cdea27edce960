"""A bare ASGI application with orjson: what uvicorn can do when nothing is on top of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import orjson
from scorer import load, matrix, v2_answer

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

HEAD_LENGTH = b"inference-header-content-length"
score = load()


async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """Answers any path, JSON and binary tensors."""
    if scope["type"] != "http":
        return
    body = await _body(receive)
    length = next((int(value) for name, value in scope["headers"] if name == HEAD_LENGTH), None)
    headers, content = _json(body) if length is None else _binary(body, length)
    headers.append((b"content-length", str(len(content)).encode()))
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": content})


async def _body(receive: Receive) -> bytes:
    parts = []
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)


def _json(body: bytes) -> tuple[list[tuple[bytes, bytes]], bytes]:
    tensor = orjson.loads(body)["inputs"][0]
    answer = v2_answer(score(matrix(tensor["shape"], tensor["data"])))
    return [(b"content-type", b"application/json")], orjson.dumps(answer)


def _binary(body: bytes, length: int) -> tuple[list[tuple[bytes, bytes]], bytes]:
    shape = orjson.loads(body[:length])["inputs"][0]["shape"]
    values = score(np.frombuffer(body, np.float32, offset=length).reshape(shape))
    raw = values.tobytes()
    size = {"binary_data_size": len(raw)}
    output = {"name": "score", "datatype": "FP32", "shape": [len(values)], "parameters": size}
    head = orjson.dumps({"model_name": "bench", "outputs": [output]})
    kind = (b"content-type", b"application/octet-stream")
    return [kind, (HEAD_LENGTH, str(len(head)).encode())], head + raw
