"""One stream to one replica, carrying micro-batches that form by themselves."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import grpc
from modelyard.dataplane.v1 import dataplane_pb2

METHOD = "/modelyard.dataplane.v1.ReplicaService/InferStream"

#: Messages without an answer on a stream. One is being scored and one waits, so that the replica
#: is never idle and what comes in meanwhile still goes out together.
MOST_MESSAGES = 2
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


@dataclass(slots=True)
class _Message:
    left: int


@dataclass(slots=True)
class _Item:
    inputs: bytes
    rows: int
    answer: asyncio.Future[Scored]
    message: _Message | None = None


class ReplicaStream:
    """Keeps the stream to one replica open, again and again, until it is closed.

    Args:
        open_channel: Opens the channel to an address.
    """

    def __init__(
        self, replica_id: str, address: str, open_channel: Callable[[str], grpc.aio.Channel]
    ) -> None:
        self.replica_id = replica_id
        self.address = address
        self.connected = asyncio.Event()
        self.retired = False
        self.rows = 0
        self._open_channel = open_channel
        self._ids = itertools.count(1)
        self._waiting: deque[_Item] = deque()
        self._under_way: dict[int, _Item] = {}
        self._messages = 0
        self._wake = asyncio.Event()
        self._progress = 0.0
        self._task = asyncio.create_task(self._run(), name=f"replica {replica_id}")

    @property
    def usable(self) -> bool:
        """Whether requests may be submitted now."""
        return self.connected.is_set() and not self.retired and self.rows < MOST_ROWS_WAITING

    def submit(self, inputs: bytes, rows: int) -> asyncio.Future[Scored]:
        """Send a request; the future gets the outputs, or a ReplicaError.

        Args:
            inputs: float32, little-endian, row-major.
        """
        answer: asyncio.Future[Scored] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Item(inputs, rows, answer))
        self.rows += rows
        self._wake.set()
        return answer

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
            try:
                await self._connect_and_serve()
            except (grpc.RpcError, TimeoutError, OSError) as error:
                _log.info("replica lost", extra={"replica": self.replica_id, "error": _kind(error)})
            finally:
                self.connected.clear()
                self._fail_all()
            lasted = time.monotonic() - opened > _BACKOFF_S[1]
            backoff = _BACKOFF_S[0] if lasted else min(backoff * 2, _BACKOFF_S[1])
            await asyncio.sleep(backoff)

    async def _connect_and_serve(self) -> None:
        channel = self._open_channel(self.address)
        try:
            async with asyncio.timeout(_CONNECT_S):
                await channel.channel_ready()
            call = channel.stream_stream(
                METHOD,
                request_serializer=dataplane_pb2.InferStreamRequest.SerializeToString,
                response_deserializer=dataplane_pb2.InferStreamResponse.FromString,
            )()
            await self._serve(call)
        finally:
            await channel.close()

    async def _serve(self, call: Any) -> None:
        self._messages = 0
        self.connected.set()
        helpers = [asyncio.create_task(self._write(call)), asyncio.create_task(self._watch(call))]
        try:
            async for response in call:
                self._take(response)
        except asyncio.CancelledError:
            if not call.cancelled() or self._task.cancelling():
                raise
        finally:
            call.cancel()
            for helper in helpers:
                helper.cancel()
            await asyncio.gather(*helpers, return_exceptions=True)

    async def _write(self, call: Any) -> None:
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                while self._messages < MOST_MESSAGES and (message := self._next_message()):
                    await call.write(message)
        except (grpc.RpcError, asyncio.InvalidStateError):
            call.cancel()

    async def _watch(self, call: Any) -> None:
        while True:
            await asyncio.sleep(STALL_S / 5)
            if self._messages and time.monotonic() - self._progress > STALL_S:
                _log.warning("replica stalls", extra={"replica": self.replica_id})
                call.cancel()

    def _next_message(self) -> dataplane_pb2.InferStreamRequest | None:
        message = _Message(0)
        request = dataplane_pb2.InferStreamRequest()
        rows = 0
        while self._waiting and rows < MOST_ROWS_A_MESSAGE:
            item = self._waiting.popleft()
            if item.answer.done():  # its caller waits no longer
                self.rows -= item.rows
                continue
            item_id = next(self._ids)
            item.message = message
            self._under_way[item_id] = item
            request.items.add(id=item_id, rows=item.rows, inputs=item.inputs)
            message.left += 1
            rows += item.rows
        if not message.left:
            return None
        if not self._messages:
            self._progress = time.monotonic()
        self._messages += 1
        return request

    def _take(self, response: dataplane_pb2.InferStreamResponse) -> None:
        self._progress = time.monotonic()
        for result in response.results:
            item = self._under_way.pop(result.id, None)
            if item is None or item.message is None:
                continue
            self.rows -= item.rows
            item.message.left -= 1
            if item.message.left == 0:
                self._messages -= 1
                self._wake.set()
            if item.answer.done():
                continue
            if result.error_reason:
                item.answer.set_exception(ReplicaError(result.error_reason))
            else:
                item.answer.set_result(Scored(result.outputs, result.queue_us + result.score_us))

    def _fail_all(self) -> None:
        for item in (*self._under_way.values(), *self._waiting):
            if not item.answer.done():
                item.answer.set_exception(ReplicaError("REPLICA_LOST", elsewhere=True))
        self._under_way.clear()
        self._waiting.clear()
        self.rows = 0


def _kind(error: BaseException) -> str:
    if isinstance(error, grpc.aio.AioRpcError):
        return str(error.code().name)
    return type(error).__name__
