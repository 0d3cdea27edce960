"""Reads in frames, asked over a plain socket."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Self

from modelyard.data.v1 import data_pb2
from modelyard.dataplane.v1 import dataplane_pb2 as pb

from service_kit import frames
from service_kit.settings import ServiceSettings

SERVICE = "featureServices/late"


def entities(*rows: tuple[str, str, int]) -> list[data_pb2.Column]:
    """The keys of the example's service: carrier, tail, gate."""
    carriers, tails, gates = zip(*rows, strict=True)
    return [
        data_pb2.Column(name="carrier", strings=data_pb2.StringValues(values=carriers)),
        data_pb2.Column(name="tail", strings=data_pb2.StringValues(values=tails)),
        data_pb2.Column(name="gate", int64s=data_pb2.Int64Values(values=gates)),
    ]


def read(
    number: int,
    *rows: tuple[str, str, int],
    as_of_us: Sequence[int] = (),
    service: str = SERVICE,
) -> pb.ReadFeaturesRequest:
    """A message that wants features."""
    return pb.ReadFeaturesRequest(
        id=number, feature_service=service, entities=entities(*rows), as_of_us=as_of_us
    )


class Peer:
    """A connection to a port for frames."""

    def __init__(self, address: str, settings: ServiceSettings) -> None:
        host, port = address.split(":")
        self._socket = socket.create_connection((host, int(port)), timeout=5)
        self.send(frames.hello(settings))
        self.welcome = pb.Welcome.FromString(self.receive())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, *messages: bytes) -> None:
        """Send frames in one piece."""
        framed = [len(message).to_bytes(4, "little") + message for message in messages]
        self._socket.sendall(b"".join(framed))

    def receive(self) -> bytes:
        """The next frame; raises ConnectionError at the end."""
        return self._exactly(int.from_bytes(self._exactly(4), "little"))

    def ask(self, *requests: pb.ReadFeaturesRequest) -> dict[int, pb.ReadFeaturesResponse]:
        """The answers to messages sent together, by their ids."""
        self.send(*(request.SerializeToString() for request in requests))
        answers = [pb.ReadFeaturesResponse.FromString(self.receive()) for _ in requests]
        return {answer.id: answer for answer in answers}

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = self._socket.recv(size - len(data))
            if not more:
                raise ConnectionError("the other side has hung up")
            data += more
        return data
