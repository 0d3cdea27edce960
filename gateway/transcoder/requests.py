"""Requests of gRPC methods from what HTTP brings: path, query, body and headers."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import orjson
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from gateway.transcoder import wellknown
from gateway.transcoder.codec import codec_of, is_map
from gateway.transcoder.contracts import Binding, Method
from gateway.transcoder.scalars import scalar_decoder
from service_kit.errors import InvalidArgument

_KEY = re.compile(r"[A-Za-z0-9._:~+/=-]{1,128}")
_FIELD_PATH = re.compile(r"[A-Za-z][A-Za-z0-9_]*(\.[A-Za-z][A-Za-z0-9_]*){0,7}")
_FIELD_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_TEXT_TYPES = frozenset(
    f"google.protobuf.{name}" for name in ("Timestamp", "Duration", "FieldMask")
)
#: Field that an idempotency key goes into (AIP-155).
REQUEST_ID = "request_id"
UPDATE_MASK = "update_mask"


def parse_json(body: bytes, path: str = "") -> Any:
    """The JSON value of a body; an empty body is an empty object.

    Args:
        path: Where in the request the body belongs.

    Raises:
        InvalidArgument: `NOT_FINITE` naming the field of a NaN or an infinity, else
            `MALFORMED_JSON`, also for lone surrogates.
    """
    if not body:
        return {}
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        field = _not_finite(body, path)
    if field is not None:
        raise InvalidArgument("NOT_FINITE", "must be a finite number", field=field)
    raise InvalidArgument("MALFORMED_JSON", "the body is not valid JSON")


def _not_finite(body: bytes, path: str) -> str | None:
    """The path of the first NaN or infinity in a body that is no JSON for nothing else."""
    try:
        return _first_not_finite(json.loads(body), path)
    except (ValueError, RecursionError):
        return None


def _first_not_finite(value: Any, path: str) -> str | None:
    if isinstance(value, float):
        return None if math.isfinite(value) else path
    if isinstance(value, dict):
        below = ((each, _below(path, key)) for key, each in value.items())
    elif isinstance(value, list):
        below = ((each, f"{path}[{index}]") for index, each in enumerate(value))
    else:
        return None
    found = (_first_not_finite(each, where) for each, where in below)
    return next((where for where in found if where is not None), None)


def _below(path: str, key: str) -> str:
    shown = key if _FIELD_NAME.fullmatch(key) else "?"
    return f"{path}.{shown}" if path else shown


def build_request(
    method: Method,
    binding: Binding,
    values: Mapping[str, str],
    query: Iterable[tuple[str, str]],
    body: bytes,
    idempotency_key: str = "",
) -> Any:
    """The request message of a call.

    Args:
        values: Fields bound by the path.
        query: Query parameters in their order.
        body: The body as it came.
        idempotency_key: Of the header; fills `request_id`.

    Raises:
        InvalidArgument: Naming the field at fault.
    """
    message = method.request_class()
    _fill_body(message, method, binding, body, values)
    if binding.body != "*":
        _fill_query(message, method.input, query, {*values, binding.body})
    elif any(True for _ in query):
        raise InvalidArgument("UNKNOWN_PARAMETER", "takes no query parameters", field="?")
    for path, value in values.items():
        _bind(message, method.input, path, value)
    apply_idempotency_key(message, idempotency_key)
    return message


def apply_idempotency_key(message: Any, key: str) -> None:
    """Put the key of the `Idempotency-Key` header into the request, when it takes one.

    Raises:
        InvalidArgument: `INVALID_IDEMPOTENCY_KEY`, or `CONFLICTING_FIELD` when the body has
            another.
    """
    if not key:
        return
    if not _KEY.fullmatch(key):
        raise InvalidArgument(
            "INVALID_IDEMPOTENCY_KEY", "must be 1 to 128 plain characters", field="Idempotency-Key"
        )
    if REQUEST_ID in message.DESCRIPTOR.fields_by_name:
        _set_same(message, REQUEST_ID, key, REQUEST_ID)


def _fill_body(
    message: Any, method: Method, binding: Binding, body: bytes, values: Mapping[str, str]
) -> None:
    if not binding.body:
        if body.strip() not in (b"", b"{}"):
            raise InvalidArgument("UNEXPECTED_BODY", "takes no body")
        return
    value = parse_json(body, "" if binding.body == "*" else binding.body)
    if binding.body == "*":
        codec_of(method.input).fill(message, value, "")
        return
    field = method.input.fields_by_name[binding.body]
    codec_of(field.message_type).fill(getattr(message, binding.body), value, binding.body)
    if binding.http_method == "PATCH":
        _imply_mask(message, value, binding.body, values)


def _imply_mask(message: Any, value: Any, body: str, values: Mapping[str, str]) -> None:
    # AIP-134: without a mask, what the body has is what changes.
    if UPDATE_MASK not in message.DESCRIPTOR.fields_by_name:
        return
    names = {f.json_name: f.name for f in getattr(message, body).DESCRIPTOR.fields}
    given = (names.get(key, key) for key in value)
    message.update_mask.paths.extend(key for key in given if f"{body}.{key}" not in values)


def _fill_query(
    message: Any, descriptor: Descriptor, query: Iterable[tuple[str, str]], taken: set[str]
) -> None:
    grouped: dict[str, list[str]] = {}
    for key, value in query:
        grouped.setdefault(key, []).append(value)
    for key, texts in grouped.items():
        target, field, name = _resolve(message, descriptor, key)
        if field is None or name in taken or name.split(".")[0] in taken:
            shown = key if _FIELD_PATH.fullmatch(key) else "?"
            raise InvalidArgument("UNKNOWN_PARAMETER", "there is no such parameter", field=shown)
        if field.name == UPDATE_MASK:
            target.ClearField(UPDATE_MASK)  # a mask that was given replaces the implied one
        _set_texts(target, field, texts, name)


def _resolve(
    message: Any, descriptor: Descriptor, key: str
) -> tuple[Any, FieldDescriptor | None, str]:
    names: list[str] = []
    *parents, last = key.split(".")
    for part in parents:
        field = _field(descriptor, part)
        if field is None or field.is_repeated or field.message_type is None:
            return message, None, ""
        names.append(field.name)
        message, descriptor = getattr(message, field.name), field.message_type
    field = _field(descriptor, last)
    if field is None or not _from_text(field):
        return message, None, ""
    return message, field, ".".join((*names, field.name))


def _field(descriptor: Descriptor, name: str) -> FieldDescriptor | None:
    return descriptor.fields_by_name.get(name) or descriptor.fields_by_camelcase_name.get(name)


def _from_text(field: FieldDescriptor) -> bool:
    """Whether a query parameter can hold a field's value."""
    kind = field.message_type
    if kind is None:
        return True
    known = kind.full_name in _TEXT_TYPES or kind.full_name in wellknown.WRAPPERS
    return known and not is_map(field)


def _set_texts(target: Any, field: FieldDescriptor, texts: list[str], path: str) -> None:
    if field.is_repeated and field.message_type is None:
        decode = scalar_decoder(field)
        values = [decode(_scalar(field, text), path) for text in texts]
        getattr(target, field.name).extend(values)
        return
    if len(texts) > 1:
        raise InvalidArgument("DUPLICATE_FIELD", "is given twice", field=path)
    _set_text(target, field, texts[0], path)


def _set_text(target: Any, field: FieldDescriptor, text: str, path: str) -> None:
    kind = field.message_type
    if kind is None:
        setattr(target, field.name, scalar_decoder(field)(_scalar(field, text), path))
        return
    value: Any = text
    if kind.full_name in wellknown.WRAPPERS:
        value = _scalar(kind.fields_by_name["value"], text)
    codec_of(kind).fill(getattr(target, field.name), value, path)


def _scalar(field: FieldDescriptor, text: str) -> Any:
    # Query parameters are text; only these two kinds have no text of their own in ProtoJSON.
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return {"true": True, "false": False}.get(text, text)
    if field.cpp_type == FieldDescriptor.CPPTYPE_ENUM and text.isdecimal():
        return int(text) if len(text) < 10 else text
    return text


def _bind(message: Any, descriptor: Descriptor, path: str, text: str) -> None:
    *parents, last = path.split(".")
    for part in parents:
        message = getattr(message, part)
        descriptor = message.DESCRIPTOR
    field = descriptor.fields_by_name[last]
    value = scalar_decoder(field)(_scalar(field, text), path)
    _set_same(message, last, value, path)


def _set_same(message: Any, name: str, value: Any, path: str) -> None:
    present = getattr(message, name)
    if present and present != value:
        raise InvalidArgument(
            "CONFLICTING_FIELD", "has one value in the body and another beside it", field=path
        )
    setattr(message, name, value)
