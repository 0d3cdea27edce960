"""Calls to the areas' services on behalf of a caller."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc

from gateway.transcoder.contracts import Method
from service_kit.channels import error_from_rpc, open_aio_channel
from service_kit.context import Caller
from service_kit.errors import Unimplemented
from service_kit.settings import ServiceSettings


class Upstreams:
    """One channel an area and one callable a method, opened when first needed."""

    def __init__(self, settings: ServiceSettings) -> None:
        self._settings = settings
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._calls: dict[str, Any] = {}

    def channel(self, area: str) -> grpc.aio.Channel:
        """The channel to the service of an area.

        Raises:
            Unimplemented: `AREA_NOT_CONFIGURED` when this suite runs without it.
        """
        channel = self._channels.get(area)
        if channel is None:
            target = self._settings.peers.get(area)
            if not target:
                raise Unimplemented("AREA_NOT_CONFIGURED", f"this suite runs without {area}")
            channel = self._channels[area] = open_aio_channel(target, self._settings)
        return channel

    async def unary(self, method: Method, request: Any, caller: Caller, seconds: float) -> Any:
        """Call a method and return its answer; `request` is a message or an iterator of them.

        Raises:
            DomainError: As the service raised it.
        """
        try:
            return await self._call(method)(request, timeout=seconds, metadata=identity(caller))
        except grpc.RpcError as error:
            raise error_from_rpc(error, method.area) from error

    async def stream(
        self, method: Method, request: Any, caller: Caller, seconds: float
    ) -> AsyncIterator[Any]:
        """Call a method that answers with a stream; like `unary` for its errors."""
        call = self._call(method)(request, timeout=seconds, metadata=identity(caller))
        try:
            async for message in call:
                yield message
        except grpc.RpcError as error:
            raise error_from_rpc(error, method.area) from error
        finally:
            call.cancel()

    async def close(self) -> None:
        """Close all channels."""
        for channel in self._channels.values():
            await channel.close()
        self._channels.clear()
        self._calls.clear()

    def _call(self, method: Method) -> Any:
        call = self._calls.get(method.full_name)
        if call is None:
            channel = self.channel(method.area)
            kinds = {
                (False, False): channel.unary_unary,
                (False, True): channel.unary_stream,
                (True, False): channel.stream_unary,
            }
            call = self._calls[method.full_name] = kinds[
                method.client_streaming, method.server_streaming
            ](
                method.full_name,
                request_serializer=method.request_class.SerializeToString,
                response_deserializer=method.response_class.FromString,
            )
        return call


def identity(caller: Caller) -> tuple[tuple[str, str], ...]:
    """The metadata that tells a service on whose behalf it is called."""
    return (
        ("modelyard-principal", caller.principal),
        ("modelyard-scopes", " ".join(sorted(caller.scopes))),
    )
