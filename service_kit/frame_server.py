"""A port for frames: an event loop in a thread of its own, and a visitor for each connection."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress

from service_kit import transport
from service_kit.frames import FrameProtocol, Guard, listen
from service_kit.settings import ServiceSettings

#: Seconds that visitors get to take their last answers when the port closes.
HANG_UP_S = 2.0
_START_S = 10.0
_STOP_S = 5.0

Take = Callable[["Visitor", bytes], None]
"""Told of each frame of a visitor who was let in, on the port's loop; to be answered once, now or
later. Raising anything ends the connection."""


class Visitor(FrameProtocol):
    """A connection from somebody who wants something."""

    def __init__(self, guard: Guard, visitors: set[Visitor], take: Take) -> None:
        super().__init__()
        self._guard = guard
        self._visitors = visitors
        self._take_frame = take
        self._known = False
        self._pending = 0
        self._closing = False

    def opened(self) -> None:
        """Somebody connected."""
        self._visitors.add(self)

    def received(self, message: bytes) -> None:
        """A frame came: the first one says who it is, all others are for the service."""
        if not self._known:
            self._greet(message)
            return
        self._pending += 1
        self._take_frame(self, message)

    def closed(self) -> None:
        """The peer left."""
        self._visitors.discard(self)

    def answer(self, message: bytes) -> None:
        """Answer one frame; nothing happens when the peer has left."""
        self._pending -= 1
        if self.transport.is_closing():
            return
        self.send(message)
        if self._closing and not self._pending:
            self.transport.close()

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


class FrameServer:
    """Listens for frames.

    Args:
        settings: Token and TLS.
        address: `host:port` to listen on; port 0 is any free one.
        scope: What a peer must be allowed to do.
        take: Told of each frame.
        new_loop: Makes the event loop.
    """

    def __init__(
        self,
        settings: ServiceSettings,
        address: str,
        scope: str,
        take: Take,
        new_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop,
    ) -> None:
        self._settings = settings
        self._host, self._port = transport.split_address(address)
        self._guard = Guard(settings.service_token.get_secret_value(), scope)
        self._take = take
        self._new_loop = new_loop
        self._visitors: set[Visitor] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._thread: threading.Thread | None = None

    @property
    def alive(self) -> bool:
        """Whether it listens."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def visitors(self) -> int:
        """Connections that are open."""
        return len(self._visitors)

    def start(self) -> str:
        """Listen; gives the bound address.

        Raises:
            UnsafeAddressError: For an address beyond this machine without TLS.
            OSError: When it cannot be bound.
        """
        bound: Future[str] = Future()
        self._thread = threading.Thread(target=self._run, args=(bound,), name="frames", daemon=True)
        self._thread.start()
        return bound.result(timeout=_START_S)

    def stop(self) -> None:
        """Take no more connections, answer what is under way, hang up."""
        if self._thread is None or self._loop is None or self._stop is None:
            return
        with suppress(RuntimeError):  # it has ended by itself
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(timeout=_STOP_S)

    def _run(self, bound: Future[str]) -> None:
        with asyncio.Runner(loop_factory=self._new_loop) as runner:
            runner.run(self._serve(bound))

    async def _serve(self, bound: Future[str]) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        try:
            server, address = await listen(self._host, self._visitor, self._settings, self._port)
        except BaseException as error:
            bound.set_exception(error)
            return
        bound.set_result(address)
        await self._stop.wait()
        server.close()
        for visitor in list(self._visitors):
            visitor.drain()
        with suppress(TimeoutError):
            async with asyncio.timeout(HANG_UP_S):
                while self._visitors:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
        for visitor in list(self._visitors):
            visitor.transport.abort()

    def _visitor(self) -> Visitor:
        return Visitor(self._guard, self._visitors, self._take)
