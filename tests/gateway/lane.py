"""An endpoint behind the lane, for tests of what happens there."""

from __future__ import annotations

import asyncio
import functools
from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import orjson

from gateway.hotlane.protocol import HotLaneProtocol
from tests.gateway import tables
from tests.gateway.sockets import Served

if TYPE_CHECKING:
    from tests.gateway.conftest import Suite

Answers = list[tuple[int, dict[str, str], bytes]]
ROUTE = "sum"


class Two:
    """An endpoint with two versions, a replica each, behind the lane."""

    def __init__(self, suite: Suite) -> None:
        self.suite = suite
        self.served = Served(suite)
        lane = functools.partial(HotLaneProtocol, suite.gateway.lane, 0.3)
        suite.run(self.served.start("lane", lane))
        self.replicas = [suite.replica(total), suite.replica(total)]
        self.push()

    def push(self, **fields: Any) -> None:
        one, two = self.replicas
        signature = tables.plain_signature(3)
        variants = [tables.variant(name, 5_000, of=signature) for name in ("v1", "v2")]
        route = tables.route(ROUTE, *variants, **{"routing_key": "user"} | fields)
        self.suite.push(route, v1=one.address, v2=two.address)
        self.suite.until(lambda: self.suite.gateway._pool._count() == 2)
        for replica in self.replicas:
            replica.batches.clear()

    def ask(self, *requests: bytes) -> Answers:
        """Ask on a connection each, all at once."""

        async def all_at_once() -> Answers:
            asked = [self.served.send("lane", [each]) for each in requests]
            return [answer for (answer,) in await asyncio.gather(*asked)]

        return self.suite.run(all_at_once())

    def post(self, path: str, document: Any, tail: bytes = b"") -> bytes:
        head = orjson.dumps(document)
        body = head + tail
        lines = (
            f"POST {path} HTTP/1.1",
            "host: x",
            f"authorization: Bearer {self.suite.key}",
            f"content-length: {len(body)}",
            *((f"inference-header-content-length: {len(head)}",) if tail else ()),
        )
        return "\r\n".join((*lines, "", "")).encode() + body

    def matrix(self, *rows: Sequence[float], **more: Any) -> bytes:
        data = [value for row in rows for value in row]
        tensor = {"name": "features", "datatype": "FP32", "shape": [len(rows), 3], "data": data}
        return self.post(f"/v2/models/{ROUTE}/infer", {"inputs": [tensor], **more})

    def raw(self, *rows: Sequence[float]) -> bytes:
        data = array("f", [value for row in rows for value in row]).tobytes()
        tensor = {
            "name": "features",
            "datatype": "FP32",
            "shape": [len(rows), 3],
            "parameters": {"binary_data_size": len(data)},
        }
        head = {"inputs": [tensor], "parameters": {"binary_data_output": True}}
        return self.post(f"/v2/models/{ROUTE}/infer", head, data)

    def named(self, user: str, *row: float) -> bytes:
        instance = {"user": user, **{f"x{at}": value for at, value in enumerate(row)}}
        return self.post(f"/v1/endpoints/{ROUTE}:predict", {"instances": [instance]})

    def idle(self) -> bool:
        """Whether nothing is left of any request."""
        gateway = self.suite.gateway
        lots, blocks = gateway.lane._lots, gateway.lane._blocks
        counts = gateway.plane._in_flight
        streams = gateway._pool._streams.values()
        left = lots._open or lots._under_way or blocks._under_way
        left = left or any(stream.rows for stream in streams)
        return not left and not any(counts.values()) and not gateway.lane._front._count

    def spoil(self, raw: bytes | None) -> None:
        """Have the replicas answer these bytes, or what is right again."""
        for replica in self.replicas:
            replica.raw = raw

    def slow(self, seconds: float) -> None:
        """Have the replicas take their time."""
        for replica in self.replicas:
            replica.delay = seconds


def total(rows: list[list[float]]) -> list[list[float]]:
    return [[sum(row)] for row in rows]


def push_two(suite: Suite, route: Any, one: str, other: str) -> None:
    """Push a route whose version 1 has two replicas, and wait until both are connected."""
    suite.revision += 1
    state = tables.state(suite.revision, route, v1=one)
    second = state.replicas.add()
    second.CopyFrom(state.replicas[0])
    second.replica_id, second.address = "another", other
    suite.data_plane.push(state)
    suite.until(lambda: suite.gateway.plane.state.revision == suite.revision)
    suite.until(lambda: suite.gateway._pool._count() == 2)
