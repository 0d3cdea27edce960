"""A replica's data plane: frames of micro-batches on an event loop and a port of its own."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from concurrent.futures import Future
from contextlib import suppress

import uvloop

from service_kit.frames import FrameProtocol, Guard, listen
from service_kit.settings import ServiceSettings
from serving_svc.batching import MicroBatcher, Request, Response

SCOPE = "dataplane:infer"
#: Seconds that a replica goes on answering after it has said that it drains.
LINGER_S = 0.5
DRAIN_S = 10.0
_HANG_UP_S = 2.0
_log = logging.getLogger(__name__)


class Caller(FrameProtocol):
    """A connection from whoever wants rows scored."""

    def __init__(self, batcher: MicroBatcher, guard: Guard, callers: set[Caller]) -> None:
        super().__init__()
        self._batcher = batcher
        self._guard = guard
        self._callers = callers
        self._known = False
        self._pending = 0
        self._closing = False

    def opened(self) -> None:
        """Somebody connected."""
        self._callers.add(self)

    def received(self, message: bytes) -> None:
        """A frame came: the first one says who it is, all others carry requests."""
        if not self._known:
            self._greet(message)
            return
        request = Request.FromString(message)
        if not self.writable:
            # It takes no answers: what it asks for meanwhile is not worth scoring.
            refusal = Response(id=request.id, error_reasons=["RESOURCE_EXHAUSTED"])
            self.send(refusal.SerializeToString())
            return
        self._pending += 1
        alone = len(self._callers) == 1 and not self.has_more
        self._batcher.submit(request, self._answer, alone=alone)

    def closed(self) -> None:
        """The peer left."""
        self._callers.discard(self)

    def drain(self) -> None:
        """Hang up once everything is answered."""
        self._closing = True
        if not self._pending:
            self.transport.close()

    def _greet(self, message: bytes) -> None:
        welcome = self._guard.admit(message)
        self.send(welcome.SerializeToString())
        if welcome.error_reason:
            self.transport.close()
        else:
            self.trust()
            self._known = True

    def _answer(self, response: Response) -> None:
        self._pending -= 1
        if self.transport.is_closing():
            return
        self.send(response.SerializeToString())
        if self._closing and not self._pending:
            self.transport.close()


class ReplicaServer:
    """Runs the servicer in a thread with an event loop of its own.

    Args:
        batcher: Scores; used on that loop only.
        settings: Token and TLS.
        host: Address to listen on; the port is any free one.
    """

    def __init__(self, batcher: MicroBatcher, settings: ServiceSettings, host: str) -> None:
        self._batcher = batcher
        self._settings = settings
        self._host = host
        self._guard = Guard(settings.service_token.get_secret_value(), SCOPE)
        self._callers: set[Caller] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._thread: threading.Thread | None = None

    @property
    def alive(self) -> bool:
        """Whether it serves."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def callers(self) -> int:
        """Connections of those who want rows scored."""
        return len(self._callers)

    @property
    def in_flight_rows(self) -> int:
        """Rows that wait or are being scored."""
        return self._batcher.queued_rows + self._batcher.scoring_rows

    def take_queue_us(self) -> int:
        """Mean microseconds in the queue since the last call."""
        return self._batcher.take_load().mean_wait_us

    def start(self) -> str:
        """Serve; gives the bound address."""
        bound: Future[str] = Future()
        self._thread = threading.Thread(
            target=lambda: self._run(bound), name="data-plane", daemon=True
        )
        self._thread.start()
        return bound.result(timeout=10.0)

    def stop(self, linger: float = LINGER_S) -> None:
        """Go on answering for `linger` seconds, finish what is under way, then close."""
        if self._thread is None or self._loop is None or self._stop is None:
            return
        deadline = time.monotonic() + DRAIN_S
        time.sleep(linger)
        while self._batcher.busy and time.monotonic() < deadline:
            time.sleep(0.02)
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(timeout=5.0)

    def _run(self, bound: Future[str]) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._serve(bound))

    async def _serve(self, bound: Future[str]) -> None:
        try:
            self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
            server, address = await listen(
                self._host,
                lambda: Caller(self._batcher, self._guard, self._callers),
                self._settings,
            )
        except BaseException as error:
            bound.set_exception(error)
            raise
        bound.set_result(address)
        await self._stop.wait()
        server.close()
        for caller in list(self._callers):
            caller.drain()
        await self._all_gone()
        self._batcher.close()

    async def _all_gone(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(_HANG_UP_S):
                while self._callers:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
        for caller in list(self._callers):
            caller.transport.abort()
