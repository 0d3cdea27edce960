"""The whole OpenAPI document."""

from __future__ import annotations

from collections.abc import Sequence

import orjson

from gateway.openapi.comments import comment
from gateway.openapi.open_inference import PATHS
from gateway.openapi.operations import open_path, operation
from gateway.openapi.schemas import Schema, Schemas
from gateway.transcoder.contracts import Method

_ABOUT = """\
Modelyard's REST API, made from its gRPC contracts.

Field names are in snake_case; 64-bit integers are strings. Every mutation takes an
`Idempotency-Key`: the same key and body give the first answer again. Errors are problem documents
(RFC 9457) with a `reason` for programs and `violations` that name the fields at fault.
"""
_PROBLEM: Schema = {
    "type": "object",
    "description": "What went wrong (RFC 9457).",
    "required": ["type", "title", "status", "detail", "reason", "violations"],
    "properties": {
        "type": {"type": "string", "examples": ["urn:modelyard:problem:unknown-field"]},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "reason": {"type": "string", "examples": ["UNKNOWN_FIELD"]},
        "violations": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "field": {"type": "string"},
                    "reason": {"type": "string"},
                    "description": {"type": "string"},
                },
            },
        },
        "metadata": {"type": "object", "additionalProperties": {"type": "string"}},
        "trace_id": {"type": "string"},
        "request_id": {"type": "string"},
    },
}
_PARAMETERS: dict[str, Schema] = {
    "IdempotencyKey": {
        "name": "Idempotency-Key",
        "in": "header",
        "description": "Same key and body: the first answer again. Fills `request_id`.",
        "schema": {"type": "string", "maxLength": 128},
    },
    "RequestTimeout": {
        "name": "Request-Timeout",
        "in": "header",
        "description": "Seconds that the call may take; 30 when absent, 300 at most.",
        "schema": {"type": "number", "exclusiveMinimum": 0, "maximum": 300},
    },
}
_SECURITY: dict[str, Schema] = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "An API key, `myk_…`."},
    "api_key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}


def build_document(methods: Sequence[Method], version: str) -> Schema:
    """The document of all published methods and of the Open Inference Protocol."""
    schemas = Schemas()
    paths: dict[str, Schema] = {}
    services: dict[str, str] = {}
    for method in methods:
        service = method.descriptor.containing_service
        services[service.name] = comment(service.full_name)
        for index, binding in enumerate(method.bindings):
            path, _ = open_path(binding)
            suffix = str(index + 1) if index else ""
            paths.setdefault(path, {})[binding.http_method.lower()] = operation(
                method, binding, schemas, suffix=suffix
            )
    services["OpenInference"] = "The Open Inference Protocol (KServe V2); a model is an endpoint."
    components = {**schemas.components, "Problem": _PROBLEM}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Modelyard", "version": version, "description": _ABOUT},
        "tags": [{"name": name, "description": text} for name, text in sorted(services.items())],
        "paths": dict(sorted((paths | PATHS).items())),
        "components": {
            "schemas": dict(sorted(components.items())),
            "parameters": _PARAMETERS,
            "responses": {"Problem": _problem_response()},
            "securitySchemes": _SECURITY,
        },
        "security": [{"bearer": []}, {"api_key": []}],
    }


def encoded_document(methods: Sequence[Method], version: str) -> bytes:
    """The document as JSON, indented, the same for the same contracts."""
    options = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
    return orjson.dumps(build_document(methods, version), option=options)


def _problem_response() -> Schema:
    reference = {"$ref": "#/components/schemas/Problem"}
    return {
        "description": "It could not be done.",
        "content": {"application/problem+json": {"schema": reference}},
    }
