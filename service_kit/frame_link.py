"""A connection for frames that is opened again and again, until it is closed for good."""

from __future__ import annotations

import asyncio
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from contextlib import suppress

from modelyard.dataplane.v1 import dataplane_pb2

from service_kit.frames import FrameProtocol

#: Seconds that connecting and greeting may take.
CONNECT_S = 2.0
#: Seconds between two attempts, at first and at most.
BACKOFF_S = (0.02, 2.0)

_log = logging.getLogger(__name__)

Connect = Callable[[str, Callable[[], FrameProtocol]], Awaitable[None]]
"""Opens a connection to an address; OSError when nobody answers."""


class LinkError(Exception):
    """The peer does not let us in, has hung up, or does not answer; says which (UPPER_SNAKE)."""


class Correspondent(ABC):
    """Who speaks over a link; is told of everything on the event loop, and must not raise."""

    @abstractmethod
    def linked(self) -> None:
        """The peer has let us in: frames may be sent."""

    @abstractmethod
    def received(self, message: bytes) -> None:
        """A frame came; raising anything ends the connection."""

    @abstractmethod
    def unlinked(self) -> None:
        """The connection has ended: what was not answered never will be."""

    @property
    @abstractmethod
    def waiting_since(self) -> float:
        """Monotonic time since which the peer owes an answer without giving any; 0 for none."""


class FrameLink:
    """Keeps a connection to a peer open.

    Args:
        name: Of the peer, for the logs.
        address: `host:port`.
        connect: Opens a connection to an address, with a protocol to tell of it.
        hello: The first frame.
        correspondent: Who speaks over it.
        stall_s: Seconds without any answer after which the connection is given up.
    """

    def __init__(
        self,
        name: str,
        address: str,
        connect: Connect,
        hello: bytes,
        correspondent: Correspondent,
        stall_s: float,
    ) -> None:
        self._name = name
        self._address = address
        self._connect = connect
        self._hello = hello
        self._correspondent = correspondent
        self._stall_s = stall_s
        self._connection: _Connection | None = None
        self._watching = False
        self._task: asyncio.Task[None] | None = None

    @property
    def up(self) -> bool:
        """Whether frames can be sent."""
        return self._connection is not None

    def start(self) -> None:
        """Begin to connect; on the event loop."""
        self._task = asyncio.create_task(self._run(), name=f"link to {self._name}")

    def send(self, message: bytes) -> None:
        """Send a frame; only while the link is up."""
        if self._connection is None:
            return
        self._connection.send(message)
        if not self._watching:
            self._watch()

    async def close(self) -> None:
        """End it."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        backoff = BACKOFF_S[0]
        while True:
            opened = time.monotonic()
            connection = _Connection(self._correspondent)
            try:
                await self._serve(connection)
            except (TimeoutError, OSError, LinkError) as error:
                _log.info("link lost", extra={"peer": self._name, "error": _kind(error)})
            finally:
                connection.abort()
                if self._connection is not None:
                    self._connection = None
                    self._correspondent.unlinked()
            lasted = time.monotonic() - opened > BACKOFF_S[1]
            backoff = BACKOFF_S[0] if lasted else min(backoff * 2, BACKOFF_S[1])
            await asyncio.sleep(backoff)

    async def _serve(self, connection: _Connection) -> None:
        async with asyncio.timeout(CONNECT_S):
            await self._connect(self._address, lambda: connection)
            connection.send(self._hello)
            await connection.welcomed
        self._connection = connection
        self._correspondent.linked()
        await connection.ended.wait()
        raise LinkError(connection.fault or "HUNG_UP")

    def _watch(self) -> None:
        # While an answer is owed, and not longer: a link that rests costs nothing.
        since = self._correspondent.waiting_since
        self._watching = since > 0
        if not self._watching:
            return
        if time.monotonic() - since > self._stall_s and self._connection is not None:
            self._connection.fault = "STALLED"
            self._connection.abort()
        asyncio.get_running_loop().call_later(self._stall_s / 4, self._watch)


class _Connection(FrameProtocol):
    """A connection of a link; the first frame that comes is the peer's welcome."""

    def __init__(self, correspondent: Correspondent) -> None:
        super().__init__()
        self._correspondent = correspondent
        self.welcomed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.ended = asyncio.Event()
        self.fault = ""

    def received(self, message: bytes) -> None:
        """A frame came."""
        if self.welcomed.done():
            self._correspondent.received(message)
            return
        reason = dataplane_pb2.Welcome.FromString(message).error_reason
        if reason:
            self.welcomed.set_exception(LinkError(reason))
        else:
            self.trust()
            self.welcomed.set_result(None)

    def closed(self) -> None:
        """It has ended."""
        self.ended.set()
        if not self.welcomed.done():
            self.welcomed.set_exception(LinkError("HUNG_UP"))

    def abort(self) -> None:
        """End it now."""
        self.welcomed.cancel()
        if hasattr(self, "transport"):
            self.transport.abort()


def _kind(error: BaseException) -> str:
    return str(error) if isinstance(error, LinkError) else type(error).__name__
