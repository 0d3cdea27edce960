"""Operations of the document: one an HTTP rule."""

from __future__ import annotations

import re
from typing import Any

from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from gateway.openapi.comments import comment
from gateway.openapi.schemas import Schema, Schemas, scalar_schema
from gateway.transcoder import wellknown
from gateway.transcoder.contracts import Binding, Method
from gateway.transcoder.paths import MANY, ONE

_CAPITAL = re.compile(r"(?<=[a-z0-9])([A-Z])")
_TEXT_TYPES = frozenset(
    f"google.protobuf.{name}" for name in ("Timestamp", "Duration", "FieldMask")
)
_ID = {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]*$"}


def open_path(binding: Binding) -> tuple[str, list[Schema]]:
    """The path in OpenAPI's form, and its parameters.

    `/v1/{name=models/*/versions/*}` becomes `/v1/models/{model}/versions/{version}`.
    """
    parts: list[str] = []
    names: list[str] = []
    fields = {v.start: v.field for v in binding.template.variables if v.end == v.start + 1}
    for index, segment in enumerate(binding.template.segments):
        if segment not in (ONE, MANY):
            parts.append(segment)
            continue
        collection = binding.template.segments[index - 1]
        name = fields.get(index) or _singular(collection)
        names.append(name)
        parts.append(f"{{{name}}}")
    verb = f":{binding.template.verb}" if binding.template.verb else ""
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": dict(_ID)} for name in names
    ]
    return f"/{'/'.join(parts)}{verb}", parameters


def operation(method: Method, binding: Binding, schemas: Schemas, *, suffix: str) -> Schema:
    """The operation of a binding.

    Args:
        suffix: Makes the operation id unique when a method has several bindings.
    """
    _, parameters = open_path(binding)
    service = method.descriptor.containing_service
    text = comment(f"{service.full_name}.{method.descriptor.name}")
    built: Schema = {
        "operationId": f"{service.name}_{method.descriptor.name}{suffix}",
        "tags": [service.name],
        "summary": text.split(". ")[0].rstrip("."),
        "description": f"{text}\n\nNeeds the scope `{method.scope}`.",
        "parameters": parameters + _query(method, binding) + _headers(method),
        "responses": {"200": _answer(method, schemas), "default": _PROBLEM_REF},
        "security": [{"bearer": [method.scope]}, {"api_key": [method.scope]}],
    }
    if binding.body:
        built["requestBody"] = _body(method, binding, schemas)
    return built


_PROBLEM_REF: Schema = {"$ref": "#/components/responses/Problem"}


def _answer(method: Method, schemas: Schemas) -> Schema:
    schema = schemas.message(method.output)
    if method.server_streaming:
        text = "One JSON object a line; a line with `error` holds a problem and is the last."
        return {"description": text, "content": {"application/x-ndjson": {"schema": schema}}}
    text = comment(method.output.full_name) or "Done."
    return {"description": text, "content": {"application/json": {"schema": schema}}}


def _body(method: Method, binding: Binding, schemas: Schemas) -> Schema:
    taken = {variable.field for variable in binding.template.variables}
    if binding.body == "*":
        schema = schemas.without(method.input, taken)
    else:
        schema = schemas.message(method.input.fields_by_name[binding.body].message_type)
    kind = "application/x-ndjson" if method.client_streaming else "application/json"
    return {"required": True, "content": {kind: {"schema": schema}}}


def _query(method: Method, binding: Binding) -> list[Schema]:
    if binding.body == "*" or method.client_streaming:
        return []
    taken = {variable.field for variable in binding.template.variables} | {binding.body}
    return list(_fields(method.input, "", taken, 3))


def _fields(descriptor: Descriptor, prefix: str, taken: set[str], depth: int) -> list[Schema]:
    found: list[Schema] = []
    for field in descriptor.fields:
        name = f"{prefix}{field.name}"
        if name in taken:
            continue
        schema = _query_schema(field)
        if schema is not None:
            text = comment(f"{descriptor.full_name}.{field.name}")
            found.append({"name": name, "in": "query", "description": text, "schema": schema})
        elif field.message_type and not field.is_repeated and depth:
            found.extend(_fields(field.message_type, f"{name}.", taken, depth - 1))
    return found


def _query_schema(field: FieldDescriptor) -> Schema | None:
    kind = field.message_type
    if kind is None:
        single = scalar_schema(field)
        return {"type": "array", "items": single} if field.is_repeated else single
    if field.is_repeated:
        return None
    if kind.full_name in wellknown.WRAPPERS:
        return scalar_schema(kind.fields_by_name["value"])
    return Schemas().message(kind) if kind.full_name in _TEXT_TYPES else None


def _headers(method: Method) -> list[Schema]:
    headers: list[Schema] = [{"$ref": "#/components/parameters/RequestTimeout"}]
    level: Any = method.descriptor.GetOptions().idempotency_level
    changes = level != descriptor_pb2.MethodOptions.NO_SIDE_EFFECTS
    if changes and "request_id" in method.input.fields_by_name:
        headers.append({"$ref": "#/components/parameters/IdempotencyKey"})
    return headers


def _singular(collection: str) -> str:
    name = _CAPITAL.sub(lambda found: f"_{found[1].lower()}", collection)
    if name.endswith("ies"):
        return f"{name[:-3]}y"
    return name[:-2] if name.endswith(("ses", "xes")) else name.removesuffix("s")
