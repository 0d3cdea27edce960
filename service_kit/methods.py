"""What the contracts say about a method: its scope and whether it may be repeated."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import FileDescriptor, MethodDescriptor

_REPEATABLE = (
    descriptor_pb2.MethodOptions.NO_SIDE_EFFECTS,
    descriptor_pb2.MethodOptions.IDEMPOTENT,
)


@lru_cache(maxsize=4_096)
def scope_of(method: str) -> str:
    """The scope that a caller of ``/package.Service/Method`` must hold; empty when undeclared."""
    # Here, because the stubs are made by the build and not every process needs them.
    from modelyard.auth.v1 import auth_pb2

    descriptor = find_method(method)
    if descriptor is None:
        return ""
    extensions: Any = descriptor.GetOptions().Extensions
    return str(extensions[auth_pb2.scope])


@lru_cache(maxsize=4_096)
def is_internal(method: str) -> bool:
    """Whether ``/package.Service/Method`` is for processes of the suite alone."""
    from modelyard.auth.v1 import auth_pb2

    descriptor = find_method(method)
    if descriptor is None:
        return False
    extensions: Any = descriptor.containing_service.GetOptions().Extensions
    return bool(extensions[auth_pb2.internal])


def find_method(method: str) -> MethodDescriptor | None:
    """The descriptor of ``/package.Service/Method`` among the contracts loaded so far."""
    try:
        return descriptor_pool.Default().FindMethodByName(method.lstrip("/").replace("/", "."))
    except KeyError:
        return None


def is_repeatable(method: MethodDescriptor) -> bool:
    """Whether the contract lets a method be called again after a failure."""
    return method.GetOptions().idempotency_level in _REPEATABLE


def repeatable_methods() -> list[tuple[str, str]]:
    """Service and method names of every repeatable method of the contracts loaded so far."""
    return sorted(
        (service.full_name, method.name)
        for file in _loaded_files()
        for service in file.services_by_name.values()
        for method in service.methods
        if is_repeatable(method)
    )


def _loaded_files() -> Iterator[FileDescriptor]:
    # A descriptor pool cannot list what it holds; the generated modules can.
    for name, module in list(sys.modules.items()):
        file = getattr(module, "DESCRIPTOR", None) if name.endswith("_pb2") else None
        if isinstance(file, FileDescriptor):
            yield file
