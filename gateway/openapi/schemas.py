"""JSON Schemas of the contracts' messages, as ProtoJSON has them."""

from __future__ import annotations

from typing import Any

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

from gateway.openapi.comments import comment
from gateway.transcoder.codec import is_map
from gateway.transcoder.wellknown import WRAPPERS

Schema = dict[str, Any]
_F = FieldDescriptor

_SCALARS: dict[int, Schema] = {
    _F.CPPTYPE_BOOL: {"type": "boolean"},
    _F.CPPTYPE_DOUBLE: {"type": "number", "format": "double"},
    _F.CPPTYPE_FLOAT: {"type": "number", "format": "float"},
    _F.CPPTYPE_INT32: {"type": "integer", "format": "int32"},
    _F.CPPTYPE_UINT32: {"type": "integer", "format": "int64", "minimum": 0},
    _F.CPPTYPE_INT64: {"type": "string", "format": "int64", "pattern": "^-?[0-9]+$"},
    _F.CPPTYPE_UINT64: {"type": "string", "format": "uint64", "pattern": "^[0-9]+$"},
    _F.CPPTYPE_STRING: {"type": "string"},
}
_BYTES: Schema = {"type": "string", "contentEncoding": "base64"}
_WELL_KNOWN: dict[str, Schema] = {
    "google.protobuf.Any": {"type": "object"},
    "google.protobuf.Duration": {"type": "string", "examples": ["1.5s"]},
    "google.protobuf.Empty": {"type": "object", "additionalProperties": False},
    "google.protobuf.FieldMask": {"type": "string", "examples": ["description,deadline"]},
    "google.protobuf.ListValue": {"type": "array", "items": {}},
    "google.protobuf.Struct": {"type": "object"},
    "google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    "google.protobuf.Value": {},
}


class Schemas:
    """Collects the schemas that a document refers to."""

    def __init__(self) -> None:
        self.components: dict[str, Schema] = {}

    def message(self, descriptor: Any) -> Schema:
        """The schema of a message: in place for Google's own types, else a reference."""
        name = descriptor.full_name
        if name in _WELL_KNOWN:
            return dict(_WELL_KNOWN[name])
        if name in WRAPPERS:
            return scalar_schema(descriptor.fields_by_name["value"])
        short = component_name(name)
        if short not in self.components:
            self.components[short] = {}  # first, because messages may contain themselves
            self.components[short] = self._object(descriptor)
        return {"$ref": f"#/components/schemas/{short}"}

    def field(self, field: FieldDescriptor) -> Schema:
        """The schema of a field, with its comment."""
        schema = self._value(field)
        owner: Any = field.containing_type
        text = comment(f"{owner.full_name}.{field.name}")
        return {**schema, "description": text} if text else schema

    def without(self, descriptor: Descriptor, names: set[str]) -> Schema:
        """The schema of a message whose other fields stand in the path."""
        if not names & set(descriptor.fields_by_name):
            return self.message(descriptor)
        return self._object(descriptor, names)

    def _object(self, descriptor: Descriptor, left_out: set[str] | None = None) -> Schema:
        schema: Schema = {
            "type": "object",
            "properties": {
                field.name: self.field(field)
                for field in descriptor.fields
                if field.name not in (left_out or ())
            },
            "additionalProperties": False,
        }
        if text := comment(descriptor.full_name):
            schema["description"] = text
        return schema

    def _value(self, field: FieldDescriptor) -> Schema:
        if is_map(field):
            entry: Any = field.message_type
            value = entry.fields_by_name["value"]
            return {"type": "object", "additionalProperties": self._single(value)}
        single = self._single(field)
        return {"type": "array", "items": single} if field.is_repeated else single

    def _single(self, field: FieldDescriptor) -> Schema:
        return self.message(field.message_type) if field.message_type else scalar_schema(field)


def scalar_schema(field: FieldDescriptor) -> Schema:
    """The schema of one value of a scalar field."""
    if field.enum_type is not None:
        return _enum(field.enum_type)
    if field.type == _F.TYPE_BYTES:
        return dict(_BYTES)
    return dict(_SCALARS[field.cpp_type])


def component_name(full_name: str) -> str:
    """A short name that is unique within the suite: `modelyard.serving.v1.X` is `serving.v1.X`."""
    return full_name.removeprefix("modelyard.")


def _enum(enum: EnumDescriptor) -> Schema:
    listed = [
        f"- `{value.name}`: {text}"
        for value in enum.values
        if (text := comment(f"{enum.full_name}.{value.name}"))
    ]
    schema: Schema = {"type": "string", "enum": [value.name for value in enum.values]}
    return {**schema, "description": "\n".join(listed)} if listed else schema
