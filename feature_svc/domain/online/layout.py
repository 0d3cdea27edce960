"""Feast's layout of the online store in Redis, byte for byte (entity key serialization 3).

A hash a set of entity keys, shared by all views of these keys; its key is the serialized entity
key followed by the project. Its fields are the 32-bit murmur3 hash of `view:feature`, holding a
`feast.types.Value`, and `_ts:view`, holding the time of the row as a protobuf timestamp.
"""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import mmh3

from feature_svc.domain import ValueType

_STRING, _INT64 = 2, 4  # feast.ValueType
_PROJECT = re.compile("[A-Za-z0-9][A-Za-z0-9_]*")
_DOUBLE = struct.Struct("<d")
_TWO = struct.Struct("<II")
_LONG_KEY = struct.Struct("<IIq")
_TAG_STRING, _TAG_INT64, _TAG_DOUBLE, _TAG_BOOL = 0x12, 0x20, 0x29, 0x38


def project_name(prefix: str) -> str:
    """The Feast project of a prefix of Redis keys: the same when Feast takes such a name.

    >>> project_name("modelyard"), project_name("team-a")
    ('modelyard', 'team_a_96c2886c')
    """
    if _PROJECT.fullmatch(prefix):
        return prefix
    digest = hashlib.sha256(prefix.encode()).hexdigest()[:8]
    return f"{re.sub('[^A-Za-z0-9]', '_', prefix).strip('_')}_{digest}".lstrip("_")


def key_prefix(join_keys: Sequence[str]) -> bytes:
    """What the keys of all rows with these join keys begin with; `join_keys` are sorted."""
    names = b"".join(_TWO.pack(_STRING, len(key.encode())) + key.encode() for key in join_keys)
    return struct.pack("<I", len(join_keys)) + names


def key_value(value: str | int) -> bytes:
    """An entity key's value within the key of a row."""
    if isinstance(value, int):
        return _LONG_KEY.pack(_INT64, 8, value)
    text = value.encode()
    return _TWO.pack(_STRING, len(text)) + text


def feature_field(view: str, feature: str) -> bytes:
    """The field that holds a feature."""
    return struct.pack("<I", mmh3.hash(f"{view}:{feature}", signed=False))


def time_field(view: str) -> bytes:
    """The field that holds the time of a view's row."""
    return f"_ts:{view}".encode()


def encode_time(micros: int) -> bytes:
    """A `google.protobuf.Timestamp` of microseconds since the epoch, which are not negative."""
    seconds, rest = divmod(micros, 1_000_000)
    return (b"\x08" + _varint(seconds) if seconds else b"") + (
        b"\x10" + _varint(rest * 1000) if rest else b""
    )


@lru_cache(maxsize=8192)
def decode_time(data: bytes) -> int:
    """Microseconds since the epoch of a `google.protobuf.Timestamp`."""
    seconds = nanos = at = 0
    while at < len(data):
        tag = data[at]
        number, at = _read_varint(data, at + 1)
        if tag == 0x08:
            seconds = number
        elif tag == 0x10:
            nanos = number
    return seconds * 1_000_000 + nanos // 1000


def _encode_double(value: float) -> bytes:
    return b"\x29" + _DOUBLE.pack(value)


def _encode_int64(value: int) -> bytes:
    return b"\x20" + _varint(value & 0xFFFF_FFFF_FFFF_FFFF)


def _encode_string(value: str) -> bytes:
    text = value.encode()
    return b"\x12" + _varint(len(text)) + text


def _encode_bool(value: bool) -> bytes:
    return b"\x38\x01" if value else b"\x38\x00"


#: How a value of each type becomes a serialized `feast.types.Value`; null is the empty one.
ENCODERS: Mapping[ValueType, Callable[[Any], bytes]] = {
    ValueType.DOUBLE: _encode_double,
    ValueType.INT64: _encode_int64,
    ValueType.STRING: _encode_string,
    ValueType.BOOL: _encode_bool,
}


def _decode_double(data: bytes) -> float | None:
    if len(data) != 9 or data[0] != _TAG_DOUBLE:
        return None
    value: float = _DOUBLE.unpack_from(data, 1)[0]
    # Feast stores a null of pandas as NaN.
    return value if value == value else None


def _decode_int64(data: bytes) -> int | None:
    if len(data) < 2 or data[0] != _TAG_INT64:
        return None
    value, _ = _read_varint(data, 1)
    return value - (1 << 64) if value >> 63 else value


def _decode_string(data: bytes) -> str | None:
    if len(data) < 2 or data[0] != _TAG_STRING:
        return None
    size, at = _read_varint(data, 1)
    return data[at : at + size].decode()


def _decode_bool(data: bytes) -> int | None:
    return data[1] if len(data) == 2 and data[0] == _TAG_BOOL else None


#: The reverse; anything else than a value of the type, as the empty one, is None.
DECODERS: Mapping[ValueType, Callable[[bytes], float | int | str | None]] = {
    ValueType.DOUBLE: _decode_double,
    ValueType.INT64: _decode_int64,
    ValueType.STRING: _decode_string,
    ValueType.BOOL: _decode_bool,
}


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7
