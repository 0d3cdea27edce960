"""Single values between JSON and protobuf (ProtoJSON), refusing what is not finite or in range."""

from __future__ import annotations

import base64
import binascii
import math
import re
import struct
from collections.abc import Callable
from typing import Any

from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor

from service_kit.errors import InvalidArgument

Decode = Callable[[Any, str], Any]
"""Makes a protobuf value of a JSON value found at a path; raises InvalidArgument."""
Encode = Callable[[Any], Any]

_INTEGER = re.compile(r"-?\d{1,20}")
_DECIMAL = re.compile(r"-?\d{1,400}(\.\d{1,400})?([eE][+-]?\d{1,4})?")
# Decimals up to the second round to the largest 32-bit float.
_FLOAT32_MAX = 3.4028234663852886e38
_FLOAT32_LIMIT = 3.40282356e38
_F = FieldDescriptor

_INT_RANGES = {
    _F.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    _F.CPPTYPE_UINT32: (0, 2**32 - 1),
    _F.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    _F.CPPTYPE_UINT64: (0, 2**64 - 1),
}


def wrong_type(path: str, wanted: str) -> InvalidArgument:
    """The refusal of a value of another JSON type."""
    return InvalidArgument("WRONG_TYPE", f"must be {wanted}", field=path)


def scalar_decoder(field: FieldDescriptor) -> Decode:
    """The decoder of one value of a scalar field."""
    kind = field.cpp_type
    if kind in _INT_RANGES:
        return _integer_decoder(*_INT_RANGES[kind])
    if kind == _F.CPPTYPE_ENUM:
        return _enum_decoder(field.enum_type)
    if kind == _F.CPPTYPE_BOOL:
        return _decode_bool
    if kind == _F.CPPTYPE_DOUBLE:
        return _number_decoder(math.inf)
    if kind == _F.CPPTYPE_FLOAT:
        return _number_decoder(_FLOAT32_LIMIT)
    return _decode_bytes if field.type == _F.TYPE_BYTES else _decode_string


def scalar_encoder(field: FieldDescriptor) -> Encode | None:
    """The encoder of one value of a scalar field; nothing when it is its own JSON."""
    kind = field.cpp_type
    if kind in (_F.CPPTYPE_INT64, _F.CPPTYPE_UINT64):
        return str
    if kind == _F.CPPTYPE_ENUM:
        return _enum_encoder(field.enum_type)
    if kind == _F.CPPTYPE_DOUBLE:
        return encode_double
    if kind == _F.CPPTYPE_FLOAT:
        return _encode_float
    if field.type == _F.TYPE_BYTES:
        return _encode_bytes
    return None


def encode_double(value: float) -> float | str:
    """A double as JSON; the ones that JSON has no number for are strings."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def finite(value: Any, path: str) -> float:
    """A JSON number, or a string that holds one, as a finite float."""
    if type(value) is str and _DECIMAL.fullmatch(value):
        value = float(value)
    if type(value) not in (int, float):
        raise wrong_type(path, "a finite number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise InvalidArgument("NOT_FINITE", "must be a finite number", field=path)
    return number


def _integer_decoder(least: int, most: int) -> Decode:
    def decode(value: Any, path: str) -> int:
        if type(value) is not int:
            value = _as_integer(value, path)
        if not least <= value <= most:
            raise InvalidArgument(
                "OUT_OF_RANGE", f"must lie between {least} and {most}", field=path
            )
        return int(value)

    return decode


def _as_integer(value: Any, path: str) -> int:
    if type(value) is str and _INTEGER.fullmatch(value):
        return int(value)
    if type(value) is float and value.is_integer():
        return int(value)
    raise wrong_type(path, "an integer")


def _number_decoder(most: float) -> Decode:
    def decode(value: Any, path: str) -> float:
        number = finite(value, path)
        if abs(number) > most:
            raise InvalidArgument("OUT_OF_RANGE", "is too large for its type", field=path)
        return number

    return decode


def _enum_decoder(enum: EnumDescriptor | None) -> Decode:
    assert enum is not None
    by_name = {value.name: value.number for value in enum.values}
    numbers = set(by_name.values())
    known = ", ".join(by_name)

    def decode(value: Any, path: str) -> int:
        if type(value) is str and value in by_name:
            return by_name[value]
        if type(value) is int and value in numbers:
            return value
        if type(value) in (str, int):
            raise InvalidArgument("UNKNOWN_VALUE", f"must be one of {known}", field=path)
        raise wrong_type(path, f"one of {known}")

    return decode


def _enum_encoder(enum: EnumDescriptor | None) -> Encode:
    assert enum is not None
    by_number = {number: value.name for number, value in enum.values_by_number.items()}
    return lambda number: by_number.get(number, number)


def _decode_bool(value: Any, path: str) -> bool:
    if type(value) is not bool:
        raise wrong_type(path, "true or false")
    return value


def _decode_string(value: Any, path: str) -> str:
    if type(value) is not str:
        raise wrong_type(path, "a string")
    return value


def _decode_bytes(value: Any, path: str) -> bytes:
    if type(value) is not str:
        raise wrong_type(path, "a base64 string")
    text = value.rstrip("=").translate(_FROM_URLSAFE)
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise InvalidArgument("INVALID_BASE64", "must be base64", field=path) from None


_FROM_URLSAFE = str.maketrans("-_", "+/")


def _encode_bytes(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _encode_float(value: float) -> float | str:
    # The shortest decimal that gives the same 32-bit float, as ProtoJSON has it.
    if not math.isfinite(value):
        return encode_double(value)
    for digits in (6, 7, 8, 9):
        shorter = float(f"{value:.{digits}g}")
        # Other readers refuse decimals that are larger than the largest float itself.
        if abs(shorter) < _FLOAT32_MAX and struct.pack("f", shorter) == struct.pack("f", value):
            return shorter
    return value
