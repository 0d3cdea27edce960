"""A feature store behind a port for frames: of doubles, as its function says."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from typing import Any

from modelyard.data.v1 import data_pb2
from modelyard.dataplane.v1 import dataplane_pb2
from modelyard.features.v1 import features_pb2

from service_kit.errors import DomainError
from service_kit.frame_server import FrameServer, Visitor
from service_kit.frames import FrameProtocol
from service_kit.grpc_status import to_status
from service_kit.settings import ServiceSettings

Response = dataplane_pb2.ReadFeaturesResponse


def framed(number: int, features: list[data_pb2.Column]) -> Response:
    """Columns of doubles as the answer to a frame."""
    columns = [list(each.doubles.values) for each in features]
    times = [list(each.event_times_us) or [0] * len(columns[0]) for each in features]
    layout = dataplane_pb2.FeatureLayout(
        features=[
            dataplane_pb2.FeaturePlace(name=each.name, kind=1, place=at, view=at)
            for at, each in enumerate(features)
        ]
    )
    statuses = [each.statuses or b"\x01" * len(columns[0]) for each in features]
    numbers = [value for row in zip(*columns, strict=True) for value in row]
    known = [value for row in zip(*times, strict=True) for value in row]
    return Response(
        id=number,
        layout=layout.SerializeToString(),
        numbers=struct.pack(f"<{len(numbers)}d", *numbers),
        times=struct.pack(f"<{len(known)}q", *known),
        statuses=bytes(status for row in zip(*statuses, strict=True) for status in row),
    )


Answer = Callable[[features_pb2.GetOnlineFeaturesRequest], features_pb2.GetOnlineFeaturesResponse]


def as_call(request: dataplane_pb2.ReadFeaturesRequest) -> features_pb2.GetOnlineFeaturesRequest:
    """A frame's request as that of a call."""
    return features_pb2.GetOnlineFeaturesRequest(
        feature_service=request.feature_service,
        entities=request.entities,
        as_of_us=request.as_of_us,
    )


def frame_server(settings: ServiceSettings, answer: Answer, address: str) -> FrameServer:
    """A real port whose store is a function."""

    def take(visitor: Visitor, message: bytes) -> None:
        request = dataplane_pb2.ReadFeaturesRequest.FromString(message)
        try:
            found = answer(as_call(request))
            response = framed(request.id, list(found.features))
            response.remembered = found.remembered
        except DomainError as error:
            response = Response(id=request.id, error=to_status(error))
        visitor.answer(response.SerializeToString())

    return FrameServer(settings, address, "features:read", take)


def echo(request: features_pb2.GetOnlineFeaturesRequest) -> features_pb2.GetOnlineFeaturesResponse:
    """A store with a feature `x`, whose value is the entity's key, and its time."""
    (column,) = request.entities
    values: Any = column.strings.values or column.int64s.values
    made = features_pb2.GetOnlineFeaturesResponse()
    made.features.add(
        name="x",
        doubles=data_pb2.DoubleValues(values=map(float, values)),
        event_times_us=request.as_of_us or [7] * len(values),
    )
    return made


class FakePort:
    """A port on the loop of the test, for misbehaving.

    Attributes:
        rows: Rows of each message, in the order of arrival.
        silent: Whether it answers nothing.
        break_next: Whether it hangs up on the next message.
        error: Answered to everything.
        raw: The same.
    """

    def __init__(self, *, delay: float = 0.0) -> None:
        self.delay = delay
        self.rows: list[int] = []
        self.silent = self.break_next = False
        self.error: DomainError | None = None
        self.raw: bytes | None = None
        self.callers: set[_Caller] = set()
        self._server: asyncio.Server | None = None

    async def start(self, port: int = 0) -> str:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Caller(self), "127.0.0.1", port)
        return f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            for caller in list(self.callers):
                caller.transport.abort()

    def take(self, caller: _Caller, message: bytes) -> None:
        request = dataplane_pb2.ReadFeaturesRequest.FromString(message)
        (column,) = request.entities
        self.rows.append(len(column.strings.values) or len(column.int64s.values))
        if self.break_next:
            self.break_next = False
            caller.transport.abort()
        elif not self.silent:
            answer = self._answer(request)
            asyncio.get_running_loop().call_later(self.delay, caller.send, answer)

    def _answer(self, request: dataplane_pb2.ReadFeaturesRequest) -> bytes:
        if self.raw is not None:
            return self.raw
        if self.error is not None:
            return Response(id=request.id, error=to_status(self.error)).SerializeToString()
        return framed(request.id, list(echo(as_call(request)).features)).SerializeToString()


class _Caller(FrameProtocol):
    def __init__(self, port: FakePort) -> None:
        super().__init__()
        self._port = port
        self._known = False

    def opened(self) -> None:
        self._port.callers.add(self)

    def closed(self) -> None:
        self._port.callers.discard(self)

    def received(self, message: bytes) -> None:
        if self._known:
            self._port.take(self, message)
            return
        self._known = True
        self.trust()
        self.send(dataplane_pb2.Welcome().SerializeToString())
