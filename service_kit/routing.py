"""Which handler answers a method; services may join after the port is open."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grpc

from service_kit import grpc_status, interceptors
from service_kit.errors import Unavailable

#: A generated ``add_…Servicer_to_server``.
AddToServer = Callable[[Any, Any], None]

# Health and reflection answer anybody who reaches the port, as probes and grpcurl expect.
_OPEN_PREFIXES = ("/grpc.health.v1.", "/grpc.reflection.")


class Router(grpc.GenericRpcHandler):  # type: ignore[misc]
    """The one generic handler of a server, guarding every method that services add to it.

    Until :meth:`open` is called, unknown methods are ``UNAVAILABLE`` (``STARTING``), which clients
    may retry, not ``UNIMPLEMENTED``.
    """

    def __init__(self, around: interceptors.Around) -> None:
        self.names: list[str] = []
        self._around = around
        self._services: list[grpc.GenericRpcHandler] = []
        self._handlers: dict[str, grpc.RpcMethodHandler] = {}
        self._open = False

    def add(self, add_to_server: AddToServer, servicer: object) -> None:
        """Add a service by its generated function."""
        add_to_server(servicer, self)

    def open(self) -> None:
        """Say that all services have been added."""
        self._open = True

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """The guarded handler of a method, made at its first call; called by gRPC."""
        method = handler_call_details.method
        known = self._handlers.get(method)
        if known is not None:
            return known
        for service in self._services:
            handler = service.service(handler_call_details)
            if handler is not None:
                self._handlers[method] = guarded = self._guarded(method, handler)
                return guarded
        return None if self._open else grpc.stream_stream_rpc_method_handler(_starting)

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """Called by generated code, as on a ``grpc.Server``."""
        self._services.extend(handlers)
        self.names.extend(
            handler.service_name()
            for handler in handlers
            if isinstance(handler, grpc.ServiceRpcHandler)
        )

    def add_registered_method_handlers(self, service: str, handlers: object) -> None:
        """Called by generated code; the generic handlers are enough for us."""

    def _guarded(self, method: str, handler: grpc.RpcMethodHandler) -> grpc.RpcMethodHandler:
        if method.startswith(_OPEN_PREFIXES):
            return handler
        return interceptors.wrap(method, handler, self._around)


def _starting(_: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
    error = Unavailable("STARTING", "the service is still starting")
    context.abort_with_status(grpc_status.abort_status(error))
    yield b""
