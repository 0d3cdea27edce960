"""One connection to one replica, carrying micro-batches that form by themselves."""

from __future__ import annotations

import asyncio
import logging
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from itertools import chain, count
from typing import NamedTuple

from modelyard.dataplane.v1 import dataplane_pb2

from service_kit.frames import FrameProtocol

#: Messages without an answer on a connection, and rows that must wait before a second one goes.
MOST_MESSAGES = 2
ROWS_FOR_A_SECOND = 128
#: Rows of one message, and rows that may wait here for one replica.
MOST_ROWS_A_MESSAGE = 2_048
MOST_ROWS_WAITING = 8_192
#: Seconds without any answer after which a stream with messages under way is given up.
STALL_S = 5.0
_CONNECT_S = 2.0
_BACKOFF_S = (0.02, 2.0)

_log = logging.getLogger(__name__)


class ReplicaError(Exception):
    """A replica did not answer a request.

    Attributes:
        reason: UPPER_SNAKE, from the replica or our own.
        elsewhere: Whether another replica may well answer it.
    """

    def __init__(self, reason: str, *, elsewhere: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.elsewhere = elsewhere


class Scored(NamedTuple):
    """A replica's answer: outputs (float32, rows x outputs) and its own time in microseconds."""

    outputs: bytes
    took_us: int


Connect = Callable[[str, Callable[[], FrameProtocol]], Awaitable[None]]
"""Opens a connection to an address; OSError when nobody answers."""


class Item(ABC):
    """A request on its way.

    Attributes:
        inputs: float32, little-endian, row-major.
        abandoned: Set by a caller who waits no longer: it is not sent if it was not yet, and
            nobody is told how it ended.
    """

    __slots__ = ("abandoned", "inputs", "rows")

    def __init__(self, inputs: bytes, rows: int) -> None:
        self.inputs = inputs
        self.rows = rows
        self.abandoned = False

    def sent(self) -> None:  # noqa: B027 - most have nothing to do then
        """Told once, just before its inputs go out."""

    @abstractmethod
    def done(self, outcome: Scored | ReplicaError) -> None:
        """Told once how it ended; must not raise."""


class ReplicaStream:
    """Keeps the connection to one replica open, again and again, until it is closed.

    Args:
        connect: Opens a connection to an address, with a protocol to tell of it.
        hello: The first frame.
    """

    def __init__(self, replica_id: str, address: str, connect: Connect, hello: bytes) -> None:
        self.replica_id = replica_id
        self.address = address
        self.connected = asyncio.Event()
        self.retired = False
        self.rows = 0
        self._connect = connect
        self._hello = hello
        self._loop = asyncio.get_running_loop()
        self._ids = count(1)
        self._waiting: deque[Item] = deque()
        self._under_way: dict[int, list[Item]] = {}
        self._flushing = False
        self._progress = 0.0
        self._connection: _Connection | None = None
        self._task = asyncio.create_task(self._run(), name=f"replica {replica_id}")

    @property
    def usable(self) -> bool:
        """Whether requests may be submitted now."""
        return self._connection is not None and not self.retired and self.rows < MOST_ROWS_WAITING

    def submit(self, item: Item) -> None:
        """Send a request, together with all others of this turn of the loop."""
        self._waiting.append(item)
        self.rows += item.rows
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def grow(self, item: Item) -> None:
        """Count one row more of an item that was submitted and is not yet sent."""
        item.rows += 1
        self.rows += 1

    async def close(self, grace: float = 0.0) -> None:
        """Take nothing more and close, after what is under way or after `grace` seconds."""
        self.retired = True
        end = time.monotonic() + grace
        while self.rows and time.monotonic() < end:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    async def _run(self) -> None:
        backoff = _BACKOFF_S[0]
        while True:
            opened = time.monotonic()
            connection = _Connection(self)
            try:
                await self._serve(connection)
            except (TimeoutError, OSError, ReplicaError) as error:
                _log.info("replica lost", extra={"replica": self.replica_id, "error": _kind(error)})
            finally:
                self._connection = None
                self.connected.clear()
                connection.abort()
                self._fail_all()
            lasted = time.monotonic() - opened > _BACKOFF_S[1]
            backoff = _BACKOFF_S[0] if lasted else min(backoff * 2, _BACKOFF_S[1])
            await asyncio.sleep(backoff)

    async def _serve(self, connection: _Connection) -> None:
        async with asyncio.timeout(_CONNECT_S):
            await self._connect(self.address, lambda: connection)
            connection.send(self._hello)
            await connection.welcomed
        self._connection = connection
        self.connected.set()
        self._flush()
        while not connection.ended.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(STALL_S / 5):
                    await connection.ended.wait()
            if self._under_way and time.monotonic() - self._progress > STALL_S:
                raise ReplicaError("STALLED")

    def _flush(self) -> None:
        self._flushing = False
        while self._waiting and self._connection is not None:
            # A second message is for keeping a replica busy that has much to do. Otherwise what
            # comes in until the first one is answered goes together.
            sent = len(self._under_way)
            if sent >= MOST_MESSAGES or (sent and self._waiting_rows() < ROWS_FOR_A_SECOND):
                return
            self._send_waiting(self._connection)

    def _waiting_rows(self) -> int:
        return sum(item.rows for item in self._waiting)

    def _send_waiting(self, connection: _Connection) -> None:
        items: list[Item] = []
        rows = 0
        while self._waiting and rows < MOST_ROWS_A_MESSAGE:
            item = self._waiting.popleft()
            if item.abandoned:
                self.rows -= item.rows
                continue
            item.sent()
            items.append(item)
            rows += item.rows
        if not items:
            return
        if not self._under_way:
            self._progress = time.monotonic()
        message_id = next(self._ids)
        self._under_way[message_id] = items
        request = dataplane_pb2.InferStreamRequest(
            id=message_id,
            rows=[item.rows for item in items],
            inputs=b"".join([item.inputs for item in items]),
        )
        connection.send(request.SerializeToString())

    def take(self, response: dataplane_pb2.InferStreamResponse) -> None:
        """Hand out a message's answers."""
        self._progress = time.monotonic()
        items = self._under_way.pop(response.id, None)
        if items is None:
            return
        rows = sum([item.rows for item in items])
        self.rows -= rows
        if self._waiting:
            self._flush()
        outputs, took = response.outputs, response.queue_us + response.score_us
        width = len(outputs) // rows
        reasons: Sequence[str] = response.error_reasons
        if len(reasons) == 1 or (reasons and len(reasons) != len(items)):
            reasons = [reasons[0]] * len(items)
        at = 0
        for place, item in enumerate(items):
            end = at + item.rows * width
            if not item.abandoned:
                reason = reasons[place] if reasons else ""
                item.done(ReplicaError(reason) if reason else Scored(outputs[at:end], took))
            at = end

    def _fail_all(self) -> None:
        lost = [*chain.from_iterable(self._under_way.values()), *self._waiting]
        self._under_way.clear()
        self._waiting.clear()
        self.rows = 0
        for item in lost:
            if not item.abandoned:
                item.done(ReplicaError("REPLICA_LOST", elsewhere=True))


class _Connection(FrameProtocol):
    """A connection of a stream; the first frame that comes is the replica's welcome."""

    def __init__(self, stream: ReplicaStream) -> None:
        super().__init__()
        self._stream = stream
        self.welcomed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.ended = asyncio.Event()

    def received(self, message: bytes) -> None:
        """A frame came."""
        if self.welcomed.done():
            self._stream.take(dataplane_pb2.InferStreamResponse.FromString(message))
            return
        reason = dataplane_pb2.Welcome.FromString(message).error_reason
        if reason:
            self.welcomed.set_exception(ReplicaError(reason))
        else:
            self.trust()
            self.welcomed.set_result(None)

    def closed(self) -> None:
        """It has ended."""
        self.ended.set()
        if not self.welcomed.done():
            self.welcomed.set_exception(ReplicaError("HUNG_UP"))

    def abort(self) -> None:
        """End it now."""
        self.welcomed.cancel()
        if hasattr(self, "transport"):
            self.transport.abort()


def _kind(error: BaseException) -> str:
    return error.reason if isinstance(error, ReplicaError) else type(error).__name__
