"""All replicas: which one takes a request, and what happens when it is lost on the way."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence

from gateway.dataplane.replicas import Item, ReplicaError, ReplicaStream, Scored
from gateway.dataplane.routing import ReplicaAddress
from service_kit import metrics
from service_kit.frame_link import Connect

_DRAIN_S = 10.0
_connected = metrics.gauge("dataplane_replicas", "Replicas with an open stream.")
_retried = metrics.counter("dataplane_retries_total", "Requests sent again to another replica.")


class ReplicaPool:
    """Streams to the replicas of every version.

    Args:
        connect: Opens a connection to an address.
        hello: The first frame of each.
    """

    def __init__(self, connect: Connect, hello: bytes) -> None:
        self._connect = connect
        self._hello = hello
        self._streams: dict[ReplicaAddress, ReplicaStream] = {}
        self._by_version: dict[str, list[ReplicaStream]] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def add(self, replicas: Iterable[ReplicaAddress]) -> None:
        """Open streams to replicas that are new."""
        for replica in replicas:
            if replica not in self._streams:
                self._streams[replica] = ReplicaStream(
                    replica.replica_id, replica.address, self._connect, self._hello
                )
        self._regroup()

    def keep_only(self, replicas: Iterable[ReplicaAddress]) -> None:
        """Let go of all others; what they have under way is still awaited."""
        kept = frozenset(replicas)
        for replica in [known for known in self._streams if known not in kept]:
            stream = self._streams.pop(replica)
            stream.retired = True
            task = asyncio.create_task(stream.close(_DRAIN_S))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
        self._regroup()

    async def connected(self, replicas: Iterable[ReplicaAddress], seconds: float) -> None:
        """Wait until one of these replicas of each version is connected, or for some seconds."""
        groups: dict[str, list[ReplicaStream]] = {}
        for replica in replicas:
            groups.setdefault(replica.model_version, []).append(self._streams[replica])
        waits = [
            _first([stream.connected for stream in streams], seconds)
            for streams in groups.values()
            if not any(stream.usable for stream in streams)
        ]
        await asyncio.gather(*waits)

    def serves(self, version: str) -> bool:
        """Whether a replica of a version can take requests now."""
        return any(stream.usable for stream in self._by_version.get(version, ()))

    async def infer(self, version: str, inputs: bytes, rows: int, deadline: float) -> Scored:
        """Score rows; sent once more, to another replica, when the first one is lost.

        Args:
            inputs: float32, little-endian, row-major.
            deadline: Monotonic time by which the answer must be there.

        Raises:
            ReplicaError: With its reason.
        """
        first = self.choose(version)
        try:
            return await _ask(first, inputs, rows, deadline)
        except ReplicaError as error:
            if not error.elsewhere:
                raise
        _retried.inc()
        return await _ask(self.choose(version, first), inputs, rows, deadline)

    async def close(self) -> None:
        """Close all streams."""
        streams = list(self._streams.values())
        self._streams.clear()
        self._by_version.clear()
        await asyncio.gather(*(stream.close() for stream in streams), *self._closing)

    def choose(self, version: str, lost: ReplicaStream | None = None) -> ReplicaStream:
        """The least busy replica of a version, other than one that was lost.

        Raises:
            ReplicaError: `NO_REPLICA`.
        """
        best: ReplicaStream | None = None
        for stream in self._by_version.get(version, ()):
            if stream is not lost and stream.usable and (best is None or stream.rows < best.rows):
                best = stream
        if best is None:
            raise ReplicaError("NO_REPLICA")
        return best

    def _regroup(self) -> None:
        groups: dict[str, list[ReplicaStream]] = {}
        for replica, stream in self._streams.items():
            groups.setdefault(replica.model_version, []).append(stream)
        self._by_version = groups
        _connected.set_function(self._count)

    def _count(self) -> int:
        return sum(stream.connected.is_set() for stream in self._streams.values())


async def _first(events: Sequence[asyncio.Event], seconds: float) -> None:
    waits = [asyncio.create_task(event.wait()) for event in events]
    _, pending = await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    for wait in pending:
        wait.cancel()


class _Awaited(Item):
    """A request that somebody awaits."""

    __slots__ = ("answer",)

    def __init__(self, inputs: bytes, rows: int, answer: asyncio.Future[Scored]) -> None:
        super().__init__(inputs, rows)
        self.answer = answer

    def done(self, outcome: Scored | ReplicaError) -> None:
        """Wake the one who waits."""
        if self.answer.done():
            return
        if isinstance(outcome, ReplicaError):
            self.answer.set_exception(outcome)
        else:
            self.answer.set_result(outcome)


async def _ask(stream: ReplicaStream, inputs: bytes, rows: int, deadline: float) -> Scored:
    loop = asyncio.get_running_loop()
    item = _Awaited(inputs, rows, loop.create_future())
    stream.submit(item)
    # A timer on the future itself: several times cheaper than asyncio.wait_for.
    late = ReplicaError("DEADLINE_EXCEEDED")
    timer = loop.call_later(max(0.0, deadline - time.monotonic()), item.done, late)
    try:
        return await item.answer
    finally:
        timer.cancel()
        item.abandoned = True
