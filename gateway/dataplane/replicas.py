"""One connection to one replica, carrying micro-batches that form by themselves."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from itertools import chain, count
from typing import NamedTuple

from modelyard.dataplane.v1 import dataplane_pb2

from service_kit.frame_link import Connect, Correspondent, FrameLink

#: Messages without an answer on a connection, and rows that must wait before a second one goes.
MOST_MESSAGES = 2
ROWS_FOR_A_SECOND = 128
#: Requests that gather before a message goes, as long as each turn of the loop brings more.
MOST_GATHERED = 8
#: Rows of one message, and rows that may wait here for one replica.
MOST_ROWS_A_MESSAGE = 2_048
MOST_ROWS_WAITING = 8_192
#: Seconds without any answer after which a stream with messages under way is given up.
STALL_S = 5.0


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


class ReplicaStream(Correspondent):
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
        self._loop = asyncio.get_running_loop()
        self._ids = count(1)
        self._waiting: deque[Item] = deque()
        self._under_way: dict[int, list[Item]] = {}
        self._gathering = False
        self._came = 0
        self._progress = 0.0
        self._link = FrameLink(f"replica {replica_id}", address, connect, hello, self, STALL_S)
        self._link.start()

    @property
    def usable(self) -> bool:
        """Whether requests may be submitted now."""
        return self._link.up and not self.retired and self.rows < MOST_ROWS_WAITING

    def submit(self, item: Item) -> None:
        """Send a request, together with all others that are there already."""
        self._waiting.append(item)
        self.rows += item.rows
        if not self._gathering:
            self._gathering = True
            self._loop.call_soon(self._gather, self._came, self._came + MOST_GATHERED)
        self._came += 1 if item.rows else 0  # those of a lot are counted as they come

    def grow(self, item: Item) -> None:
        """Count one row more of an item that was submitted and is not yet sent."""
        item.rows += 1
        self.rows += 1
        self._came += 1

    async def close(self, grace: float = 0.0) -> None:
        """Take nothing more and close, after what is under way or after `grace` seconds."""
        self.retired = True
        end = time.monotonic() + grace
        while self.rows and time.monotonic() < end:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        await self._link.close()

    def linked(self) -> None:
        """The replica has let us in."""
        self.connected.set()
        self._flush()

    def unlinked(self) -> None:
        """The connection has ended: what was under way is lost."""
        self.connected.clear()
        self._fail_all()

    @property
    def waiting_since(self) -> float:
        """Since when the replica owes an answer; 0 when it owes none."""
        return self._progress if self._under_way else 0.0

    def _gather(self, came: int, most: int) -> None:
        # What has arrived lies in sockets until the loop has looked at them: one look more costs
        # less than a message more, which wakes the replica, and this process by its answer.
        if came < self._came < most and self._waiting_rows() < ROWS_FOR_A_SECOND:
            self._loop.call_soon(self._gather, self._came, most)
            return
        self._gathering = False
        self._flush()

    def _flush(self) -> None:
        while self._waiting and self._link.up:
            # A second message is for keeping a replica busy that has much to do. Otherwise what
            # comes in until the first one is answered goes together.
            sent = len(self._under_way)
            if sent >= MOST_MESSAGES or (sent and self._waiting_rows() < ROWS_FOR_A_SECOND):
                return
            self._send_waiting()

    def _waiting_rows(self) -> int:
        return sum(item.rows for item in self._waiting)

    def _send_waiting(self) -> None:
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
        self._link.send(request.SerializeToString())

    def received(self, message: bytes) -> None:
        """Hand out a message's answers."""
        response = dataplane_pb2.InferStreamResponse.FromString(message)
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
