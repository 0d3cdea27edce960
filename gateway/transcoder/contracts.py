"""What the contracts publish: services, methods, their HTTP rules, scopes and message classes."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import modelyard
from google.api import annotations_pb2
from google.protobuf import message_factory
from google.protobuf.descriptor import (
    Descriptor,
    FileDescriptor,
    MethodDescriptor,
    ServiceDescriptor,
)
from modelyard.auth.v1 import auth_pb2

from gateway.transcoder.paths import PathTemplate, parse_template

_VERBS = ("get", "put", "post", "delete", "patch")


@dataclass(frozen=True, slots=True)
class Binding:
    """One HTTP rule of a method.

    Attributes:
        http_method: `GET`, `POST`, ...
        path: The template as the contract has it.
        template: The same, parsed.
        body: `*`, the name of a field, or empty when the request has no body.
    """

    http_method: str
    path: str
    template: PathTemplate
    body: str


@dataclass(frozen=True)
class Method:
    """A published method.

    Attributes:
        full_name: `/package.Service/Method`, as on the wire.
        area: Area whose service answers, e.g. `registry`.
        scope: Scope that a caller must hold; nobody may call when it is empty.
    """

    descriptor: MethodDescriptor
    full_name: str
    area: str
    scope: str
    bindings: tuple[Binding, ...]
    request_class: Any
    response_class: Any
    client_streaming: bool
    server_streaming: bool

    @property
    def input(self) -> Descriptor:
        """The request's message."""
        return self.descriptor.input_type

    @property
    def output(self) -> Descriptor:
        """The answer's message."""
        return self.descriptor.output_type


def load_contracts() -> list[FileDescriptor]:
    """Import every contract of the suite and return their descriptors, by file name."""
    # The packages of the stubs have no __init__, so pkgutil does not see into them.
    names = {
        ".".join(("modelyard", *file.relative_to(root).with_suffix("").parts))
        for root in modelyard.__path__
        for file in Path(root).glob("*/v*/*_pb2.py")
    }
    return [importlib.import_module(name).DESCRIPTOR for name in sorted(names)]


def published_methods(files: Sequence[FileDescriptor]) -> Iterator[Method]:
    """The methods that the gateway offers: all with an HTTP rule of services not internal."""
    for file in files:
        for service in file.services_by_name.values():
            if _is_internal(service):
                continue
            for descriptor in service.methods:
                method = _method(descriptor)
                if method.bindings:
                    yield method


def _is_internal(service: ServiceDescriptor) -> bool:
    extensions: Any = service.GetOptions().Extensions
    return bool(extensions[auth_pb2.internal])


def _method(descriptor: MethodDescriptor) -> Method:
    options: Any = descriptor.GetOptions()
    service = descriptor.containing_service
    return Method(
        descriptor=descriptor,
        full_name=f"/{service.full_name}/{descriptor.name}",
        area=service.file.package.split(".")[-2],
        scope=str(options.Extensions[auth_pb2.scope]),
        bindings=tuple(_bindings(options.Extensions[annotations_pb2.http])),
        request_class=message_factory.GetMessageClass(descriptor.input_type),
        response_class=message_factory.GetMessageClass(descriptor.output_type),
        client_streaming=bool(descriptor.client_streaming),
        server_streaming=bool(descriptor.server_streaming),
    )


def _bindings(rule: Any) -> Iterator[Binding]:
    kind = rule.WhichOneof("pattern")
    if kind in _VERBS:
        path = getattr(rule, kind)
        yield Binding(kind.upper(), path, parse_template(path), rule.body)
    elif kind == "custom":
        path = rule.custom.path
        yield Binding(rule.custom.kind.upper(), path, parse_template(path), rule.body)
    for more in rule.additional_bindings:
        yield from _bindings(more)
