"""Google's well-known types between JSON and protobuf."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from google.protobuf import json_format

from gateway.transcoder.scalars import encode_double, finite, wrong_type
from service_kit.errors import InvalidArgument

Fill = Callable[[Any, Any, str], None]
"""Fills a message (first) with a JSON value (second) found at a path (third)."""

#: Depth of nesting in a free-form value; protobuf itself allows 100 messages, three a level.
MOST_NESTED = 30

_TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)")
_DURATION = re.compile(r"-?\d{1,12}(\.\d{1,9})?s")
_MASK = re.compile(r"[A-Za-z][A-Za-z0-9_]*(\.[A-Za-z][A-Za-z0-9_]*)*")
_CAPITAL = re.compile(r"[A-Z]")


def fill_timestamp(message: Any, value: Any, path: str) -> None:
    """An RFC 3339 instant with a zone."""
    _from_text(message, value, path, _TIMESTAMP, "an RFC 3339 timestamp with a time zone")


def fill_duration(message: Any, value: Any, path: str) -> None:
    """Seconds with an s, like `1.5s`."""
    _from_text(message, value, path, _DURATION, "a duration in seconds like 1.5s")


def fill_field_mask(message: Any, value: Any, path: str) -> None:
    """Paths with commas between them, in snake_case or camelCase."""
    if type(value) is not str:
        raise wrong_type(path, "field paths separated by commas")
    paths = [part.strip() for part in value.split(",")] if value else []
    if not all(_MASK.fullmatch(part) for part in paths):
        raise InvalidArgument("INVALID_FIELD_MASK", "must be field paths", field=path)
    message.Clear()
    message.paths.extend(_CAPITAL.sub(lambda found: f"_{found[0].lower()}", part) for part in paths)


def fill_struct(message: Any, value: Any, path: str) -> None:
    """A JSON object."""
    _fill_object(message, value, path, MOST_NESTED)


def fill_list(message: Any, value: Any, path: str) -> None:
    """A JSON list."""
    _fill_items(message, value, path, MOST_NESTED)


def fill_value(message: Any, value: Any, path: str) -> None:
    """Any JSON value."""
    _fill_any(message, value, path, MOST_NESTED)


def fill_packed(message: Any, value: Any, path: str) -> None:
    """`google.protobuf.Any`, for the types that are loaded."""
    if type(value) is not dict:
        raise wrong_type(path, "an object with @type")
    try:
        json_format.ParseDict(value, message, max_recursion_depth=MOST_NESTED)
    except (json_format.ParseError, ValueError, TypeError):
        raise InvalidArgument("INVALID_ANY", "is not a message of its @type", field=path) from None


def encode_struct(message: Any) -> dict[str, Any]:
    """A JSON object."""
    return {key: encode_value(value) for key, value in message.fields.items()}


def encode_list(message: Any) -> list[Any]:
    """A JSON list."""
    return [encode_value(value) for value in message.values]


def encode_value(message: Any) -> Any:
    """Any JSON value."""
    kind = message.WhichOneof("kind")
    if kind == "number_value":
        number = message.number_value
        return int(number) if number.is_integer() and abs(number) < 2**53 else encode_double(number)
    if kind == "struct_value":
        return encode_struct(message.struct_value)
    if kind == "list_value":
        return encode_list(message.list_value)
    return None if kind in (None, "null_value") else getattr(message, kind)


def encode_field_mask(message: Any) -> str:
    """Paths with commas between them, in snake_case as the contracts have them."""
    return ",".join(message.paths)


def _from_text(message: Any, value: Any, path: str, form: re.Pattern[str], wanted: str) -> None:
    if type(value) is not str:
        raise wrong_type(path, wanted)
    try:
        if not form.fullmatch(value):
            raise ValueError
        message.FromJsonString(value.upper() if form is _TIMESTAMP else value)
    except (ValueError, OverflowError):
        raise InvalidArgument("INVALID_FORMAT", f"must be {wanted}", field=path) from None


def _fill_object(message: Any, value: Any, path: str, depth: int) -> None:
    if type(value) is not dict:
        raise wrong_type(path, "an object")
    message.SetInParent()
    fields = message.fields
    for key, item in value.items():
        _fill_any(fields[key], item, path, depth - 1)


def _fill_items(message: Any, value: Any, path: str, depth: int) -> None:
    if type(value) is not list:
        raise wrong_type(path, "a list")
    message.SetInParent()
    for index, item in enumerate(value):
        _fill_any(message.values.add(), item, f"{path}[{index}]", depth - 1)


def _fill_any(message: Any, value: Any, path: str, depth: int) -> None:
    if depth <= 0:
        raise InvalidArgument("TOO_DEEP", f"nests more than {MOST_NESTED} levels", field=path)
    kind = type(value)
    if kind is str:
        message.string_value = value
    elif kind is bool:
        message.bool_value = value
    elif kind in (int, float):
        message.number_value = finite(value, path)
    elif value is None:
        message.null_value = 0
    elif kind is dict:
        _fill_object(message.struct_value, value, path, depth)
    else:
        _fill_items(message.list_value, value, path, depth)


FILL: dict[str, Fill] = {
    "google.protobuf.Any": fill_packed,
    "google.protobuf.Duration": fill_duration,
    "google.protobuf.FieldMask": fill_field_mask,
    "google.protobuf.ListValue": fill_list,
    "google.protobuf.Struct": fill_struct,
    "google.protobuf.Timestamp": fill_timestamp,
    "google.protobuf.Value": fill_value,
}
ENCODE: dict[str, Callable[[Any], Any]] = {
    "google.protobuf.Any": lambda message: json_format.MessageToDict(
        message, preserving_proto_field_name=True
    ),
    "google.protobuf.Duration": lambda message: message.ToJsonString(),
    "google.protobuf.FieldMask": encode_field_mask,
    "google.protobuf.ListValue": encode_list,
    "google.protobuf.Struct": encode_struct,
    "google.protobuf.Timestamp": lambda message: message.ToJsonString(),
    "google.protobuf.Value": encode_value,
}
WRAPPERS = frozenset(
    f"google.protobuf.{name}Value"
    for name in (
        *("Double", "Float", "Int64", "UInt64", "Int32"),
        *("UInt32", "Bool", "String", "Bytes"),
    )
)
