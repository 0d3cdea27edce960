"""Reads from the online store, many requests in one call: what arrives together goes together."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
from modelyard.data.v1 import data_pb2
from modelyard.features.v1 import features_pb2

from service_kit import metrics
from service_kit.channels import error_from_rpc
from service_kit.errors import DeadlineExceeded, Unavailable

#: Calls under way at once; what comes meanwhile waits and goes out together.
MOST_CALLS = 4
MOST_ROWS_A_CALL = 2_048
MOST_ROWS_WAITING = 16_384

PRESENT = data_pb2.VALUE_STATUS_PRESENT
NOT_FOUND = data_pb2.VALUE_STATUS_NOT_FOUND

Call = Callable[..., Awaitable[features_pb2.GetOnlineFeaturesResponse]]
"""The stub's `GetOnlineFeatures`."""

_rows = metrics.histogram(
    "feature_batch_rows", "Rows of a read from the store.", buckets=(1, 2, 4, 8, 16, 64, 256, 2048)
)


@dataclass(slots=True)
class FeatureColumn:
    """The values of one feature.

    Attributes:
        values: None or NaN where a value is missing.
        statuses: A `ValueStatus` a row; empty when all are present.
        times: When each value became known (microseconds); empty when unknown.
    """

    values: list[Any]
    statuses: bytes = b""
    times: list[int] = field(default_factory=list)

    def part(self, start: int, end: int) -> FeatureColumn:
        """Some of the rows."""
        return FeatureColumn(
            self.values[start:end], self.statuses[start:end], self.times[start:end]
        )


FeatureColumns = dict[str, FeatureColumn]
Entities = dict[str, list[Any]]


@dataclass(slots=True)
class _Ask:
    entities: Entities
    rows: int
    as_of_us: Sequence[int]
    deadline: float
    answer: asyncio.Future[FeatureColumns]


_Key = tuple[str, tuple[tuple[str, type], ...]]


class FeatureReader:
    """Reads features of entities.

    Args:
        call: The stub's `GetOnlineFeatures`.
    """

    def __init__(self, call: Call) -> None:
        self._call = call
        self._waiting: dict[_Key, list[_Ask]] = {}
        self._waiting_rows = 0
        self._calls: set[asyncio.Task[None]] = set()
        self._scheduled = False

    async def read(
        self,
        service: str,
        entities: Entities,
        as_of_us: Sequence[int] | None,
        deadline: float,
    ) -> FeatureColumns:
        """The features of rows of entities.

        Args:
            entities: Columns of keys.
            as_of_us: Reference time of each row (microseconds); now when absent.
            deadline: Monotonic time by which the answer must be there.

        Raises:
            DomainError: Of the store, or `DEADLINE_EXCEEDED`, or `OVERLOADED`.
        """
        rows = len(next(iter(entities.values()))) if entities else 0
        if self._waiting_rows + rows > MOST_ROWS_WAITING:
            raise Unavailable("OVERLOADED", "too many feature reads are waiting")
        loop = asyncio.get_running_loop()
        key = (service, tuple((name, _kind(values)) for name, values in entities.items()))
        answer: asyncio.Future[FeatureColumns] = loop.create_future()
        ask = _Ask(entities, rows, as_of_us or (), deadline, answer)
        self._waiting.setdefault(key, []).append(ask)
        self._waiting_rows += rows
        if not self._scheduled:
            self._scheduled = True
            loop.call_soon(self._pump)
        timer = loop.call_later(max(0.0, deadline - time.monotonic()), _expire, answer)
        try:
            return await answer
        finally:
            timer.cancel()

    async def close(self) -> None:
        """Give up what is under way."""
        for call in list(self._calls):
            call.cancel()
        await asyncio.gather(*self._calls, return_exceptions=True)

    def _pump(self) -> None:
        self._scheduled = False
        while self._waiting and len(self._calls) < MOST_CALLS:
            key = next(iter(self._waiting))
            asks = self._take(key)
            if asks:
                call = asyncio.create_task(self._send(key, asks))
                self._calls.add(call)
                call.add_done_callback(self._ended)

    def _ended(self, call: asyncio.Task[None]) -> None:
        self._calls.discard(call)
        self._pump()

    def _take(self, key: _Key) -> list[_Ask]:
        waiting = self._waiting.pop(key)
        taken: list[_Ask] = []
        rows = 0
        while waiting and (not taken or rows + waiting[0].rows <= MOST_ROWS_A_CALL):
            ask = waiting.pop(0)
            self._waiting_rows -= ask.rows
            if not ask.answer.done():
                taken.append(ask)
                rows += ask.rows
        if waiting:
            self._waiting[key] = waiting
        return taken

    async def _send(self, key: _Key, asks: list[_Ask]) -> None:
        rows = sum(ask.rows for ask in asks)
        _rows.observe(rows)
        timeout = max(ask.deadline for ask in asks) - time.monotonic()
        try:
            response = await self._call(_request(key, asks), timeout=max(timeout, 0.001))
            columns = _columns(response, rows)
        except (grpc.RpcError, ValueError) as error:
            failure = (
                Unavailable("FEATURES_MALFORMED", "the feature store's answer makes no sense")
                if isinstance(error, ValueError)
                else error_from_rpc(error, "features")
            )
            for ask in asks:
                if not ask.answer.done():
                    ask.answer.set_exception(failure)
            return
        start = 0
        for ask in asks:
            end = start + ask.rows
            if not ask.answer.done():
                ask.answer.set_result(
                    columns
                    if len(asks) == 1
                    else {name: column.part(start, end) for name, column in columns.items()}
                )
            start = end


def _kind(values: list[Any]) -> type:
    return int if all(type(value) is int for value in values) else str


def _request(key: _Key, asks: list[_Ask]) -> features_pb2.GetOnlineFeaturesRequest:
    service, kinds = key
    request = features_pb2.GetOnlineFeaturesRequest(feature_service=service)
    for name, kind in kinds:
        column = request.entities.add(name=name)
        target: Any = column.int64s.values if kind is int else column.strings.values
        for ask in asks:
            values = ask.entities[name]
            target.extend(values if kind is int else [str(value) for value in values])
    if any(ask.as_of_us for ask in asks):
        for ask in asks:
            request.as_of_us.extend(ask.as_of_us or [0] * ask.rows)
    return request


def _columns(response: features_pb2.GetOnlineFeaturesResponse, rows: int) -> FeatureColumns:
    columns: FeatureColumns = {}
    for column in response.features:
        kind = column.WhichOneof("values")
        if kind is None:
            raise ValueError("a column without values")
        values = list(getattr(column, kind).values)
        statuses = column.statuses
        if len(values) != rows or len(statuses) not in (0, rows):
            raise ValueError("a column of another length")
        if statuses and statuses.count(PRESENT) != rows:
            values = [
                value if status == PRESENT else None
                for value, status in zip(values, statuses, strict=True)
            ]
        else:
            statuses = b""
        if kind == "strings":
            values = [value or None for value in values]
        columns[column.name] = FeatureColumn(values, statuses, list(column.event_times_us))
    return columns


def _expire(answer: asyncio.Future[Any]) -> None:
    if not answer.done():
        answer.set_exception(
            DeadlineExceeded("DEADLINE_EXCEEDED", "the features did not come in time")
        )
