"""The Open Inference Protocol's paths in the document; its contract has no HTTP rules."""

from __future__ import annotations

from typing import Any

_TENSOR: dict[str, Any] = {
    "type": "object",
    "required": ["name", "shape", "datatype", "data"],
    "properties": {
        "name": {"type": "string"},
        "shape": {"type": "array", "items": {"type": "integer"}},
        "datatype": {"type": "string", "examples": ["FP32", "BYTES"]},
        "data": {"type": "array", "items": {}},
        "parameters": {"type": "object"},
    },
}
_INFER: dict[str, Any] = {
    "type": "object",
    "required": ["inputs"],
    "properties": {
        "id": {"type": "string"},
        "parameters": {"type": "object"},
        "inputs": {"type": "array", "items": _TENSOR},
        "outputs": {
            "type": "array",
            "items": {"type": "object", "properties": {"name": {"type": "string"}}},
        },
    },
}
_INFER_TEXT = (
    "Inputs are one tensor an input field, of shape [n] or [n, 1], or one tensor `features` of "
    "shape [n, F] with the matrix as the model sees it."
)


def _operation(name: str, summary: str, *, body: bool = False, text: str = "") -> dict[str, Any]:
    built: dict[str, Any] = {
        "operationId": f"OpenInference_{name}",
        "tags": ["OpenInference"],
        "summary": summary,
        "description": text or summary,
        "responses": {
            "200": {
                "description": summary,
                "content": {"application/json": {"schema": {"type": "object"}}},
            },
            "default": {"$ref": "#/components/responses/Problem"},
        },
    }
    if body:
        built["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": _INFER}},
        }
    return built


def _with_parameters(path: str, method: str, operation: dict[str, Any]) -> dict[str, Any]:
    names = [part[1:-1] for part in path.split("/") if part.startswith("{")]
    operation["parameters"] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in names
    ]
    return {method: operation}


def _paths() -> dict[str, Any]:
    live = _operation("ServerLive", "Whether the server runs")
    ready = _operation("ServerReady", "Whether the server takes requests")
    found = {
        "/v2": {"get": _operation("ServerMetadata", "What the server is")},
        "/v2/health/live": {"get": {**live, "security": []}},
        "/v2/health/ready": {"get": {**ready, "security": []}},
    }
    for base, suffix in (("/v2/models/{name}", ""), ("/v2/models/{name}/versions/{version}", "2")):
        for path, method, operation in (
            (base, "get", _operation(f"ModelMetadata{suffix}", "What a model wants and gives")),
            (f"{base}/ready", "get", _operation(f"ModelReady{suffix}", "Whether a model answers")),
            (
                f"{base}/infer",
                "post",
                _operation(f"ModelInfer{suffix}", "Infer", body=True, text=_INFER_TEXT),
            ),
        ):
            found[path] = _with_parameters(path, method, operation)
    return found


PATHS = _paths()
