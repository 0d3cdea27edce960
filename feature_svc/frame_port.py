"""Online reads in frames: what came while a batch was under way is the next one.

The reads of all connections go to the online store together, on the port's own thread, which waits
for it: whatever else it could do meanwhile needs the store as well.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import uvloop
from modelyard.dataplane.v1 import dataplane_pb2 as pb

from feature_svc import messages as to
from feature_svc.domain.online.found import FeatureRows
from feature_svc.service import CurrentDefinitions, OnlineReads, Wanted
from service_kit import metrics
from service_kit.errors import DomainError, Internal, ResourceExhausted
from service_kit.frame_server import FrameServer, Visitor
from service_kit.grpc_status import to_status
from service_kit.settings import ServiceSettings

SCOPE = "features:read"
#: Rows of one trip to the store, and rows that may wait for one.
MOST_BATCH_ROWS = 4_096
MOST_WAITING_ROWS = 16_384

_log = logging.getLogger(__name__)
_messages = metrics.quick_counter(
    "feature_frames_total", "Messages of online reads, by the reason of their refusal.", ("reason",)
)
_seconds = metrics.quick_histogram(
    "feature_frame_seconds", "Time from a message to its answer.", ()
)


class _Waiting(NamedTuple):
    visitor: Visitor
    message: int
    wanted: Wanted
    rows: int
    arrived: float


class FramePort:
    """Answers the reads of gateways.

    Args:
        settings: Token and TLS.
        address: `host:port` to listen on.
        reads: Used on the port's thread alone.
        current: The definitions that it reads by.
    """

    def __init__(
        self,
        settings: ServiceSettings,
        address: str,
        reads: OnlineReads,
        current: CurrentDefinitions,
    ) -> None:
        self._server = FrameServer(settings, address, SCOPE, self._take, uvloop.new_event_loop)
        self._reads = reads
        self._current = current
        self._waiting: deque[_Waiting] = deque()
        self._rows = 0
        self._working = False
        self.address = ""

    def start(self) -> None:
        """Listen."""
        self.address = self._server.start()
        _log.info("listening for frames", extra={"frames": self.address})

    def stop(self) -> None:
        """Answer what is under way, and hang up."""
        self._server.stop()

    def _take(self, visitor: Visitor, message: bytes) -> None:
        request = pb.ReadFeaturesRequest.FromString(message)
        try:
            wanted = _wanted(request)
            rows = len(next(iter(wanted.keys.values()), ()))
            if self._rows + rows > MOST_WAITING_ROWS or not visitor.writable:
                raise ResourceExhausted("TOO_MANY_READS", "too many reads are waiting")
        except DomainError as error:
            _answer(visitor, request.id, error)
            return
        self._waiting.append(_Waiting(visitor, request.id, wanted, rows, time.perf_counter()))
        self._rows += rows
        if not self._working:
            self._working = True
            # Not at once: what else came in this turn of the loop goes along.
            asyncio.get_running_loop().call_soon(self._work)

    def _work(self) -> None:
        if self._current.fresh:
            self._read_waiting()
            return
        # SQL is asked elsewhere: it may take longer than a read.
        asked = asyncio.get_running_loop().run_in_executor(None, self._current.get)
        asked.add_done_callback(lambda done: self._read_waiting(done.exception()))

    def _read_waiting(self, failure: BaseException | None = None) -> None:
        batch = self._next_batch()
        answers = self._answers(batch, failure)
        now = time.perf_counter()
        for each, answer in zip(batch, answers, strict=True):
            _answer(each.visitor, each.message, answer)
            _seconds.labels().observe(now - each.arrived)
        self._working = bool(self._waiting)
        if self._working:
            asyncio.get_running_loop().call_soon(self._work)

    def _answers(
        self, batch: Sequence[_Waiting], failure: BaseException | None
    ) -> Sequence[FeatureRows | DomainError]:
        if isinstance(failure, DomainError):
            return [failure] * len(batch)
        try:
            return self._reads.read_all([each.wanted for each in batch])
        except Exception:
            _log.exception("a batch of online reads failed")
            return [Internal("INTERNAL", "internal error")] * len(batch)

    def _next_batch(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        rows = 0
        while self._waiting and (not batch or rows + self._waiting[0].rows <= MOST_BATCH_ROWS):
            each = self._waiting.popleft()
            rows += each.rows
            batch.append(each)
        self._rows -= rows
        return batch


def _wanted(request: pb.ReadFeaturesRequest) -> Wanted:
    keys = to.keys_from_message(request.entities)
    return Wanted(_service_id(request.feature_service), keys, request.as_of_us)


@lru_cache(maxsize=1_000)
def _service_id(name: str) -> str:
    return to.id_of("featureServices/{feature_service}", name, "feature_service")


def _answer(visitor: Visitor, message: int, answer: FeatureRows | DomainError) -> None:
    if isinstance(answer, DomainError):
        response = pb.ReadFeaturesResponse(id=message, error=to_status(answer))
        _messages.labels(answer.reason).inc()
    else:
        response = to.rows_to_message(message, answer)
        _messages.labels("").inc()
    visitor.answer(response.SerializeToString())
