"""A tiny service for the tests of the kit: every arity, every scope, no contract of its own."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.wrappers_pb2 import StringValue
from modelyard.auth.v1 import auth_pb2

from service_kit.settings import ServiceSettings

SERVICE = "kittest.v1.Echo"
TOKEN = "a-token-for-tests"
SETTINGS = ServiceSettings(service="echo", service_token=TOKEN)

# name, client streams, server streams, scope, may be repeated
_METHODS = (
    ("Say", False, False, "echo:read", True),
    ("Write", False, False, "echo:write", False),
    ("Count", False, True, "echo:read", False),
    ("Sum", True, False, "echo:write", False),
    ("Talk", True, True, "echo:read", False),
    ("Secret", False, False, "", False),
)


@dataclass
class Echo:
    """Answers with ``answer(text, context)``; streams do it for each word."""

    answer: Callable[[str, grpc.ServicerContext], str] = lambda text, _: text
    calls: list[str] = field(default_factory=list)

    def unary(self, request: StringValue, context: grpc.ServicerContext) -> StringValue:
        self.calls.append(request.value)
        return StringValue(value=self.answer(request.value, context))

    def count(self, request: StringValue, context: grpc.ServicerContext) -> Iterator[StringValue]:
        for word in request.value.split():
            yield self.unary(StringValue(value=word), context)

    def sum(self, requests: Iterator[StringValue], context: grpc.ServicerContext) -> StringValue:
        text = " ".join(request.value for request in requests)
        return self.unary(StringValue(value=text), context)

    def talk(
        self, requests: Iterator[StringValue], context: grpc.ServicerContext
    ) -> Iterator[StringValue]:
        for request in requests:
            yield self.unary(request, context)


def add_to_server(servicer: Echo, server: Any) -> None:
    """What a generated ``add_EchoServicer_to_server`` does."""
    codec = {
        "request_deserializer": StringValue.FromString,
        "response_serializer": StringValue.SerializeToString,
    }
    handlers = {
        "Say": grpc.unary_unary_rpc_method_handler(servicer.unary, **codec),
        "Write": grpc.unary_unary_rpc_method_handler(servicer.unary, **codec),
        "Secret": grpc.unary_unary_rpc_method_handler(servicer.unary, **codec),
        "Count": grpc.unary_stream_rpc_method_handler(servicer.count, **codec),
        "Sum": grpc.stream_unary_rpc_method_handler(servicer.sum, **codec),
        "Talk": grpc.stream_stream_rpc_method_handler(servicer.talk, **codec),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    server.add_registered_method_handlers(SERVICE, handlers)


class EchoStub:
    """What a generated stub does, for sync and asyncio channels."""

    def __init__(self, channel: Any) -> None:
        codec = {
            "request_serializer": StringValue.SerializeToString,
            "response_deserializer": StringValue.FromString,
        }
        self.say = channel.unary_unary(f"/{SERVICE}/Say", **codec)
        self.write = channel.unary_unary(f"/{SERVICE}/Write", **codec)
        self.secret = channel.unary_unary(f"/{SERVICE}/Secret", **codec)
        self.count = channel.unary_stream(f"/{SERVICE}/Count", **codec)
        self.sum = channel.stream_unary(f"/{SERVICE}/Sum", **codec)
        self.talk = channel.stream_stream(f"/{SERVICE}/Talk", **codec)


def said(text: str) -> StringValue:
    """A request."""
    return StringValue(value=text)


def _register_contract() -> None:
    file = descriptor_pb2.FileDescriptorProto(
        name="kittest/v1/echo.proto",
        package="kittest.v1",
        syntax="proto3",
        dependency=["google/protobuf/wrappers.proto", auth_pb2.DESCRIPTOR.name],
    )
    service = file.service.add(name="Echo")
    for name, client_streams, server_streams, scope, repeatable in _METHODS:
        method = service.method.add(
            name=name,
            input_type=".google.protobuf.StringValue",
            output_type=".google.protobuf.StringValue",
            client_streaming=client_streams,
            server_streaming=server_streams,
        )
        if scope:
            method.options.Extensions[auth_pb2.scope] = scope
        if repeatable:
            method.options.idempotency_level = descriptor_pb2.MethodOptions.NO_SIDE_EFFECTS
    pool = descriptor_pool.Default()
    pool.AddSerializedFile(file.SerializeToString())
    # Stands for the generated module, in which the kit finds the contract.
    module = types.ModuleType("kittest_echo_pb2")
    module.__dict__["DESCRIPTOR"] = pool.FindFileByName(file.name)
    sys.modules[module.__name__] = module


_register_contract()
