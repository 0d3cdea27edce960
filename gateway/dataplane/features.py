"""Reads from the online store, many requests in one message: what arrives together goes together.

Messages go in frames while there is a connection for them, and as calls while there is none: what
a lost connection leaves without an answer is asked again by a call, if there is time.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from itertools import count

import grpc
from modelyard.dataplane.v1 import dataplane_pb2
from modelyard.features.v1 import features_pb2

from gateway.dataplane import feature_wire as wire
from gateway.dataplane.feature_wire import (
    NOT_FOUND,
    PRESENT,
    Entities,
    FeatureColumn,
    FeatureColumns,
)
from service_kit import metrics
from service_kit.channels import error_from_rpc
from service_kit.errors import DeadlineExceeded, DomainError, Unavailable
from service_kit.frame_link import Connect, Correspondent, FrameLink
from service_kit.grpc_status import from_status

__all__ = ["NOT_FOUND", "PRESENT", "Entities", "FeatureColumn", "FeatureColumns", "FeatureReader"]

#: Calls under way at once; what comes meanwhile waits and goes out together.
MOST_CALLS = 4
#: Frames of one kind under way, and rows that must wait before a second one goes.
MOST_FRAMES = 2
ROWS_FOR_A_SECOND = 128
MOST_ROWS_A_MESSAGE = 2_048
MOST_ROWS_WAITING = 16_384
#: Seconds without any answer after which a connection with frames under way is given up.
STALL_S = 0.4

Call = Callable[..., Awaitable[features_pb2.GetOnlineFeaturesResponse]]
"""The stub's `GetOnlineFeatures`."""
Done = Callable[[FeatureColumns | DomainError], None]
"""Told once of the features, or why there are none; must not raise."""

_log = logging.getLogger(__name__)
_rows = metrics.histogram(
    "feature_batch_rows", "Rows of a read from the store.", buckets=(1, 2, 4, 8, 16, 64, 256, 2048)
)
_messages = metrics.quick_counter(
    "feature_messages_total", "Reads from the store, in frames or by calls.", ("way",)
)
_in_frames, _by_calls = _messages.labels("frames"), _messages.labels("call")


class Lookup:
    """A request under way.

    Attributes:
        deadline: Monotonic time after which nobody wants it; whoever asks minds it as well.
        abandoned: Set by a caller who waits no longer: it is not sent if it was not yet, and
            nobody is told how it ended.
    """

    __slots__ = ("abandoned", "as_of_us", "deadline", "done", "entities", "lane", "rows")

    def __init__(
        self,
        lane: _Lane,
        entities: Entities,
        rows: int,
        as_of_us: Sequence[int],
        deadline: float,
        done: Done,
    ) -> None:
        self.lane = lane
        self.entities = entities
        self.rows = rows
        self.as_of_us = as_of_us
        self.deadline = deadline
        self.done = done
        self.abandoned = False


class _Lane:
    """The requests that can go together: they want the same of the same kinds of keys."""

    __slots__ = ("frames", "kinds", "rows", "service", "waiting")

    def __init__(self, service: str, kinds: wire.Kinds) -> None:
        self.service = service
        self.kinds = kinds
        self.waiting: deque[Lookup] = deque()
        self.rows = 0
        self.frames = 0

    def take(self) -> tuple[list[Lookup], int]:
        """As many as fit one message, and how many rows left the queue."""
        now = time.monotonic()
        taken: list[Lookup] = []
        rows = left = 0
        while self.waiting and (not taken or rows + self.waiting[0].rows <= MOST_ROWS_A_MESSAGE):
            lookup = self.waiting.popleft()
            left += lookup.rows
            if lookup.abandoned:
                continue
            if lookup.deadline <= now:
                lookup.done(_late())
                continue
            taken.append(lookup)
            rows += lookup.rows
        self.rows -= left
        return taken, left


class FeatureReader(Correspondent):
    """Reads features of entities.

    Args:
        call: The stub's `GetOnlineFeatures`.
    """

    def __init__(self, call: Call) -> None:
        self._call = call
        self._link: FrameLink | None = None
        self._lanes: dict[tuple[str, wire.Kinds], _Lane] = {}
        self._waiting_rows = 0
        self._ids = count(1)
        self._frames: dict[int, list[Lookup]] = {}
        self._calls: set[asyncio.Task[None]] = set()
        self._scheduled = False
        self._progress = 0.0

    def connect(self, address: str, connect: Connect, hello: bytes) -> None:
        """Read in frames from now on, whenever there is a connection.

        Args:
            address: `host:port` of the feature service's port for frames.
            connect: Opens a connection to an address.
            hello: The first frame.
        """
        self._link = FrameLink("features", address, connect, hello, self, STALL_S)
        self._link.start()

    def ask(
        self,
        service: str,
        entities: Entities,
        as_of_us: Sequence[int] | None,
        deadline: float,
        done: Done,
    ) -> Lookup:
        """Read the features of rows of entities, together with all others of this turn of the loop.

        Args:
            service: `featureServices/{feature_service}`.
            entities: Columns of keys.
            as_of_us: Reference time of each row (microseconds); now when absent.
            deadline: Monotonic time after which nobody wants them. It ends no wait: who needs the
                end at that time abandons the lookup then.
            done: Told of the features or the error, later than this returns.

        Raises:
            Unavailable: `OVERLOADED`.
        """
        rows = len(next(iter(entities.values()))) if entities else 0
        if self._waiting_rows + rows > MOST_ROWS_WAITING:
            raise Unavailable("OVERLOADED", "too many feature reads are waiting")
        kinds = wire.kinds_of(entities)
        lane = self._lanes.get((service, kinds))
        if lane is None:
            lane = self._lanes[service, kinds] = _Lane(service, kinds)
        lookup = Lookup(lane, entities, rows, as_of_us or (), deadline, done)
        lane.waiting.append(lookup)
        lane.rows += rows
        self._waiting_rows += rows
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._pump)
        return lookup

    async def read(
        self,
        service: str,
        entities: Entities,
        as_of_us: Sequence[int] | None,
        deadline: float,
    ) -> FeatureColumns:
        """The features of rows of entities; as `ask`, but ended by the deadline.

        Raises:
            DomainError: Of the store, or `DEADLINE_EXCEEDED`, or `OVERLOADED`.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[FeatureColumns] = loop.create_future()

        def done(outcome: FeatureColumns | DomainError) -> None:
            if answer.done():
                return
            if isinstance(outcome, DomainError):
                answer.set_exception(outcome)
            else:
                answer.set_result(outcome)

        lookup = self.ask(service, entities, as_of_us, deadline, done)
        timer = loop.call_later(max(0.0, deadline - time.monotonic()), lambda: done(_late()))
        try:
            return await answer
        finally:
            timer.cancel()
            lookup.abandoned = True

    async def close(self) -> None:
        """Give up what is under way."""
        if self._link is not None:
            await self._link.close()
        for call in list(self._calls):
            call.cancel()
        await asyncio.gather(*self._calls, return_exceptions=True)

    def linked(self) -> None:
        """There is a connection: what waits goes in frames."""
        self._pump()

    def received(self, message: bytes) -> None:
        """The answer to a frame came."""
        self._progress = time.monotonic()
        response = dataplane_pb2.ReadFeaturesResponse.FromString(message)
        lookups = self._frames.pop(response.id, None)
        if lookups is None:
            return
        lookups[0].lane.frames -= 1
        if self._waiting_rows:
            self._pump()
        if response.HasField("error"):
            _fail(lookups, from_status(response.error))
            return
        try:
            found = wire.columns_of_frame(response, lookups)
        except ValueError:
            _fail(lookups, _malformed())
            return
        _hand_out(lookups, found)

    def unlinked(self) -> None:
        """The connection is lost: what was under way is asked for anew."""
        for lookups in self._frames.values():
            lane = lookups[0].lane
            lane.frames -= 1
            lane.waiting.extendleft(reversed(lookups))
            rows = sum(lookup.rows for lookup in lookups)
            lane.rows += rows
            self._waiting_rows += rows
        self._frames.clear()
        self._pump()

    @property
    def waiting_since(self) -> float:
        """Since when the feature service owes an answer; 0 when it owes none."""
        return self._progress if self._frames else 0.0

    def _pump(self) -> None:
        self._scheduled = False
        for key, lane in list(self._lanes.items()):
            while lane.waiting and self._send_next(lane):
                pass
            if not lane.waiting and not lane.frames:
                del self._lanes[key]

    def _send_next(self, lane: _Lane) -> bool:
        """Send one message of a lane; false when it has to wait."""
        link = self._link
        in_frames = link is not None and link.up
        if in_frames:
            # A second message is for keeping the store busy when there is much to read. Otherwise
            # what comes in until the first one is answered goes together.
            if lane.frames >= MOST_FRAMES or (lane.frames and lane.rows < ROWS_FOR_A_SECOND):
                return False
        elif len(self._calls) >= MOST_CALLS:
            return False
        lookups, left = lane.take()
        self._waiting_rows -= left
        if lookups:
            _rows.observe(sum(lookup.rows for lookup in lookups))
            if in_frames and link is not None:
                self._send_frame(link, lane, lookups)
            else:
                self._send_call(lane, lookups)
        return True

    def _send_frame(self, link: FrameLink, lane: _Lane, lookups: list[Lookup]) -> None:
        if not self._frames:
            self._progress = time.monotonic()
        message = next(self._ids)
        self._frames[message] = lookups
        lane.frames += 1
        request = dataplane_pb2.ReadFeaturesRequest(id=message, feature_service=lane.service)
        wire.fill(request, lane.kinds, lookups)
        _in_frames.inc()
        link.send(request.SerializeToString())

    def _send_call(self, lane: _Lane, lookups: list[Lookup]) -> None:
        _by_calls.inc()
        call = asyncio.create_task(self._read_by_call(lane, lookups))
        self._calls.add(call)
        call.add_done_callback(self._call_ended)

    def _call_ended(self, call: asyncio.Task[None]) -> None:
        self._calls.discard(call)
        self._pump()

    async def _read_by_call(self, lane: _Lane, lookups: list[Lookup]) -> None:
        timeout = max(lookup.deadline for lookup in lookups) - time.monotonic()
        request = features_pb2.GetOnlineFeaturesRequest(feature_service=lane.service)
        wire.fill(request, lane.kinds, lookups)
        try:
            response = await self._call(request, timeout=max(timeout, 0.001))
            found = wire.columns_of_call(response, lookups)
        except ValueError:
            _fail(lookups, _malformed())
        except grpc.RpcError as error:
            _fail(lookups, error_from_rpc(error, "features"))
        else:
            _hand_out(lookups, found)


def _hand_out(lookups: Sequence[Lookup], found: Sequence[FeatureColumns]) -> None:
    for lookup, columns in zip(lookups, found, strict=True):
        _tell(lookup, columns)


def _fail(lookups: Sequence[Lookup], error: DomainError) -> None:
    for lookup in lookups:
        _tell(lookup, error)


def _tell(lookup: Lookup, outcome: FeatureColumns | DomainError) -> None:
    if lookup.abandoned:
        return
    try:
        lookup.done(outcome)
    except Exception:
        # Whoever failed is no reason to tell the others nothing.
        _log.exception("features came to nobody", extra={"service": lookup.lane.service})


def _late() -> DeadlineExceeded:
    return DeadlineExceeded("DEADLINE_EXCEEDED", "the features did not come in time")


def _malformed() -> Unavailable:
    return Unavailable("FEATURES_MALFORMED", "the feature store's answer makes no sense")
