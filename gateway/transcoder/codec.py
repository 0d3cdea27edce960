"""ProtoJSON by precompiled codecs: exact field paths in errors, nothing unknown let through.

Answers use the contracts' snake_case names and print fields without presence even when they have
their default; 64-bit integers are strings, as ProtoJSON has them, because JavaScript would round
them. Requests may use snake_case or camelCase.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from gateway.transcoder import wellknown
from gateway.transcoder.scalars import Decode, scalar_decoder, scalar_encoder, wrong_type
from service_kit.errors import InvalidArgument

Store = Callable[[Any, Any, str], None]
"""Puts a JSON value (second) found at a path (third) into a message (first)."""
Read = Callable[[Any], Any]

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_codecs: dict[str, MessageCodec] = {}


def codec_of(descriptor: Any) -> MessageCodec:
    """The codec of a message type (its descriptor), made at the first call."""
    codec = _codecs.get(descriptor.full_name)
    if codec is None:
        codec = _codecs[descriptor.full_name] = MessageCodec()
        codec.compile(descriptor)
    return codec


class MessageCodec:
    """Fills messages of one type from JSON and makes JSON of them."""

    def __init__(self) -> None:
        self.fill: Store = _not_compiled
        self.encode: Read = _not_compiled
        self._stores: dict[str, tuple[Store, str]] = {}
        self._reads: list[tuple[str, bool, Read]] = []

    def compile(self, descriptor: Descriptor) -> None:
        """Prepare for a type; apart from making the codec because types may contain themselves."""
        name = descriptor.full_name
        if name in wellknown.FILL:
            self.fill, self.encode = wellknown.FILL[name], wellknown.ENCODE[name]
            return
        if name in wellknown.WRAPPERS:
            self._compile_wrapper(descriptor.fields_by_name["value"])
            return
        self.fill, self.encode = self._fill_fields, self._encode_fields
        for field in descriptor.fields:
            store = _store(field)
            for known in (field.json_name, field.name):
                self._stores[known] = (store, field.name)
            self._reads.append((field.name, _has_presence(field), _read(field)))

    def _compile_wrapper(self, field: FieldDescriptor) -> None:
        decode, encode = scalar_decoder(field), scalar_encoder(field)

        def fill(message: Any, value: Any, path: str) -> None:
            message.SetInParent()
            message.value = decode(value, path)

        self.fill = fill
        self.encode = lambda message: encode(message.value) if encode else message.value

    def _fill_fields(self, message: Any, value: Any, path: str) -> None:
        if type(value) is not dict:
            raise wrong_type(path, "an object")
        if path:
            message.SetInParent()
        stores = self._stores
        seen: set[str] = set()
        for key, item in value.items():
            found = stores.get(key)
            if found is None:
                raise _unknown_field(key, path)
            store, name = found
            where = f"{path}.{name}" if path else name
            if name in seen:
                raise InvalidArgument("DUPLICATE_FIELD", "is given twice", field=where)
            seen.add(name)
            store(message, item, where)

    def _encode_fields(self, message: Any) -> dict[str, Any]:
        has = message.HasField
        return {
            name: read(message) for name, presence, read in self._reads if not presence or has(name)
        }


def _not_compiled(*_: Any) -> Any:
    raise RuntimeError("the codec is not compiled")


def _unknown_field(key: str, path: str) -> InvalidArgument:
    # The key is the caller's text: it is named only when it could be a field's name.
    shown = key if _NAME.fullmatch(key) else "?"
    where = f"{path}.{shown}" if path else shown
    return InvalidArgument("UNKNOWN_FIELD", "there is no such field", field=where)


def _has_presence(field: FieldDescriptor) -> bool:
    return bool(field.has_presence)


def is_map(field: FieldDescriptor) -> bool:
    """Whether a field is a map."""
    kind = field.message_type
    return bool(field.is_repeated and kind is not None and kind.GetOptions().map_entry)


def _store(field: FieldDescriptor) -> Store:
    if is_map(field):
        return _store_map(field)
    single = _store_message(field) if field.message_type else _store_scalar(field)
    if field.is_repeated:
        single = _store_items(field)
    elif field.containing_oneof is not None:
        single = _only_one(field, single)
    if field.message_type and field.message_type.full_name == "google.protobuf.Value":
        return single
    return lambda message, value, path: None if value is None else single(message, value, path)


def _store_scalar(field: FieldDescriptor) -> Store:
    decode, name = scalar_decoder(field), field.name
    return lambda message, value, path: setattr(message, name, decode(value, path))


def _store_message(field: FieldDescriptor) -> Store:
    codec, name = codec_of(field.message_type), field.name
    return lambda message, value, path: codec.fill(getattr(message, name), value, path)


def _only_one(field: FieldDescriptor, store: Store) -> Store:
    oneof: Any = field.containing_oneof
    group, name = oneof.name, field.name

    def store_only(message: Any, value: Any, path: str) -> None:
        if message.WhichOneof(group) not in (None, name):
            raise InvalidArgument("ONEOF_CONFLICT", f"only one of {group} is allowed", field=path)
        store(message, value, path)

    return store_only


def _store_items(field: FieldDescriptor) -> Store:
    name = field.name
    if field.message_type is None:
        return _store_scalars(name, scalar_decoder(field))
    codec = codec_of(field.message_type)

    def store(message: Any, value: Any, path: str) -> None:
        if type(value) is not list:
            raise wrong_type(path, "a list")
        items = getattr(message, name)
        for index, item in enumerate(value):
            codec.fill(items.add(), item, f"{path}[{index}]")

    return store


def _store_scalars(name: str, decode: Decode) -> Store:
    def store(message: Any, value: Any, path: str) -> None:
        if type(value) is not list:
            raise wrong_type(path, "a list")
        decoded = [decode(item, f"{path}[{index}]") for index, item in enumerate(value)]
        getattr(message, name).extend(decoded)

    return store


def _store_map(field: FieldDescriptor) -> Store:
    entry: Any = field.message_type
    name, kinds = field.name, entry.fields_by_name
    decode_key = _key_decoder(kinds["key"])
    value_kind = kinds["value"]
    codec = codec_of(value_kind.message_type) if value_kind.message_type else None
    decode = None if codec else scalar_decoder(value_kind)

    def store(message: Any, value: Any, path: str) -> None:
        if value is None:
            return
        if type(value) is not dict:
            raise wrong_type(path, "an object")
        items = getattr(message, name)
        for key, item in value.items():
            where = f"{path}.{key}" if _NAME.fullmatch(key) else f"{path}.?"
            if decode is not None:
                items[decode_key(key, where)] = decode(item, where)
            elif codec is not None:
                codec.fill(items[decode_key(key, where)], item, where)

    return store


def _key_decoder(field: FieldDescriptor) -> Decode:
    decode = scalar_decoder(field)
    if field.cpp_type != FieldDescriptor.CPPTYPE_BOOL:
        return decode
    return lambda key, path: decode({"true": True, "false": False}.get(key, key), path)


def _read(field: FieldDescriptor) -> Read:
    name = field.name
    if is_map(field):
        return _read_map(field)
    encode: Read | None
    if field.message_type:
        encode = _encode_late(codec_of(field.message_type))
    else:
        encode = scalar_encoder(field)
    if encode is None:
        return _list_getter(name) if field.is_repeated else _getter(name)
    one = encode
    if field.is_repeated:
        return lambda message: [one(item) for item in getattr(message, name)]
    return lambda message: one(getattr(message, name))


def _encode_late(codec: MessageCodec) -> Read:
    # Looked up at each call: a type that contains itself is still being compiled here.
    return lambda message: codec.encode(message)  # noqa: PLW0108


def _getter(name: str) -> Read:
    return lambda message: getattr(message, name)


def _list_getter(name: str) -> Read:
    return lambda message: list(getattr(message, name))


def _read_map(field: FieldDescriptor) -> Read:
    entry: Any = field.message_type
    name, kinds = field.name, entry.fields_by_name
    value_kind = kinds["value"]
    codec = codec_of(value_kind.message_type) if value_kind.message_type else None
    encode = scalar_encoder(value_kind) if codec is None else None
    is_bool = kinds["key"].cpp_type == FieldDescriptor.CPPTYPE_BOOL

    def text(key: Any) -> str:
        return str(key).lower() if is_bool else str(key)

    def read(message: Any) -> dict[str, Any]:
        items = getattr(message, name).items()
        if codec is not None:
            return {text(key): codec.encode(value) for key, value in items}
        return {text(key): encode(value) if encode else value for key, value in items}

    return read
