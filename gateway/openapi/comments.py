"""The comments of the contracts, by full name of what they stand above."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import modelyard
from google.protobuf import descriptor_pb2

# Field numbers in descriptor.proto, of which the paths of source locations are made.
_MESSAGES, _ENUMS, _SERVICES = 4, 5, 6
_FIELDS, _NESTED_MESSAGES, _NESTED_ENUMS, _VALUES, _METHODS = 2, 3, 4, 2, 2


@cache
def comments() -> dict[str, str]:
    """Comments by full name, e.g. `modelyard.serving.v1.Endpoint.state`."""
    found: dict[str, str] = {}
    for root in modelyard.__path__:
        path = Path(root) / "descriptors.binpb"
        if path.is_file():
            files = descriptor_pb2.FileDescriptorSet.FromString(path.read_bytes())
            for file in files.file:
                found.update(_of_file(file))
    return found


def comment(full_name: str) -> str:
    """The comment above something, as one paragraph a blank line; empty when there is none."""
    return comments().get(full_name, "")


def _of_file(file: Any) -> Iterator[tuple[str, str]]:
    names = dict(_names(file))
    for location in file.source_code_info.location:
        name = names.get(tuple(location.path))
        text = location.leading_comments or location.trailing_comments
        if name and text:
            yield name, _cleaned(text)


def _cleaned(text: str) -> str:
    paragraphs = "\n".join(line.strip() for line in text.strip().splitlines()).split("\n\n")
    return "\n\n".join(" ".join(paragraph.split("\n")) for paragraph in paragraphs)


def _names(file: Any) -> Iterator[tuple[tuple[int, ...], str]]:
    package = file.package
    for index, message in enumerate(file.message_type):
        yield from _of_message(message, (_MESSAGES, index), package)
    for index, enum in enumerate(file.enum_type):
        yield from _of_enum(enum, (_ENUMS, index), package)
    for index, service in enumerate(file.service):
        path, name = (_SERVICES, index), f"{package}.{service.name}"
        yield path, name
        for place, method in enumerate(service.method):
            yield (*path, _METHODS, place), f"{name}.{method.name}"


def _of_message(
    message: Any, path: tuple[int, ...], parent: str
) -> Iterator[tuple[tuple[int, ...], str]]:
    name = f"{parent}.{message.name}"
    yield path, name
    for index, field in enumerate(message.field):
        yield (*path, _FIELDS, index), f"{name}.{field.name}"
    for index, nested in enumerate(message.nested_type):
        yield from _of_message(nested, (*path, _NESTED_MESSAGES, index), name)
    for index, enum in enumerate(message.enum_type):
        yield from _of_enum(enum, (*path, _NESTED_ENUMS, index), name)


def _of_enum(
    enum: Any, path: tuple[int, ...], parent: str
) -> Iterator[tuple[tuple[int, ...], str]]:
    name = f"{parent}.{enum.name}"
    yield path, name
    for index, value in enumerate(enum.value):
        yield (*path, _VALUES, index), f"{name}.{value.name}"
