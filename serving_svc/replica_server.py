"""A replica's data plane: frames of micro-batches on an event loop and a port of its own."""

from __future__ import annotations

import time

import uvloop

from service_kit.frame_server import FrameServer, Visitor
from service_kit.settings import ServiceSettings
from serving_svc.batching import MicroBatcher, Request, Response

SCOPE = "dataplane:infer"
#: Seconds that a replica goes on answering after it has said that it drains.
LINGER_S = 0.5
DRAIN_S = 10.0


class ReplicaServer:
    """Has what comes over a port scored.

    Args:
        batcher: Scores; used on the port's loop only.
        settings: Token and TLS.
        host: Address to listen on; the port is any free one.
    """

    def __init__(self, batcher: MicroBatcher, settings: ServiceSettings, host: str) -> None:
        self._batcher = batcher
        self._frames = FrameServer(settings, f"{host}:0", SCOPE, self._take, uvloop.new_event_loop)

    @property
    def alive(self) -> bool:
        """Whether it serves."""
        return self._frames.alive

    @property
    def callers(self) -> int:
        """Connections of those who want rows scored."""
        return self._frames.visitors

    @property
    def in_flight_rows(self) -> int:
        """Rows that wait or are being scored."""
        return self._batcher.queued_rows + self._batcher.scoring_rows

    def take_queue_us(self) -> int:
        """Mean microseconds in the queue since the last call."""
        return self._batcher.take_load().mean_wait_us

    def start(self) -> str:
        """Serve; gives the bound address."""
        return self._frames.start()

    def stop(self, linger: float = LINGER_S) -> None:
        """Go on answering for `linger` seconds, finish what is under way, then close."""
        if not self._frames.alive:
            return
        deadline = time.monotonic() + DRAIN_S
        time.sleep(linger)
        while self._batcher.busy and time.monotonic() < deadline:
            time.sleep(0.02)
        self._frames.stop()
        self._batcher.close()

    def _take(self, visitor: Visitor, message: bytes) -> None:
        request = Request.FromString(message)
        if not visitor.writable:
            # It takes no answers: what it asks for meanwhile is not worth scoring.
            refusal = Response(id=request.id, error_reasons=["RESOURCE_EXHAUSTED"])
            visitor.answer(refusal.SerializeToString())
            return
        alone = self._frames.visitors == 1 and not visitor.has_more
        self._batcher.submit(
            request,
            lambda response: visitor.answer(response.SerializeToString()),
            alone=alone,
        )
