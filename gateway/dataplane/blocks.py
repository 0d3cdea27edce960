"""Requests for many rows that come as a matrix, answered by columns: nothing is done row by row.

Only the common case, as in `gateway.dataplane.direct`; all else is left to `DataPlane.predict`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from math import isfinite

import numpy as np
import numpy.typing as npt

from gateway.dataplane.ask import Ask, BlockAnswer, BlockPart
from gateway.dataplane.core import SHARE_BEFORE_FALLBACK, DataPlane
from gateway.dataplane.deadlines import Deadlines
from gateway.dataplane.id_block import IdBlock
from gateway.dataplane.pool import ReplicaPool
from gateway.dataplane.prepare import check_width
from gateway.dataplane.replicas import Item, ReplicaError, ReplicaStream, Scored
from gateway.dataplane.routing import Route, Variant
from gateway.dataplane.split import check_ask

_ALL = slice(None)

Answered = Callable[[BlockAnswer | None], None]
"""Told once of an answer, or of nothing when the ordinary way has to find one; must not raise."""


class _Part(Item):
    """The rows that one variant answers."""

    __slots__ = ("block", "part", "stream")

    def __init__(self, block: _Block, part: BlockPart, stream: ReplicaStream) -> None:
        super().__init__(part.matrix, part.count)
        self.block = block
        self.part = part
        self.stream = stream

    def done(self, outcome: Scored | ReplicaError) -> None:
        """A replica has answered, or failed."""
        self.block.blocks.told(self.block, self, outcome)


class _Block:
    """A request under way; `left` counts the parts without an answer."""

    __slots__ = ("answer", "answered", "blocks", "expires", "left", "parts")

    def __init__(self, blocks: Blocks, answer: BlockAnswer, answered: Answered) -> None:
        self.blocks = blocks
        self.answer = answer
        self.answered = answered
        self.parts: Sequence[_Part] = ()
        self.left = 0
        self.expires = 0.0


class Blocks:
    """Answers requests that come as a matrix.

    Args:
        plane: Knows the routes, counts what is under way, and records the answers.
        pool: The replicas.
    """

    def __init__(self, plane: DataPlane, pool: ReplicaPool) -> None:
        self._plane = plane
        self._pool = pool
        self._under_way = Deadlines[_Block](lambda block: self._end(block, None))

    def take(self, ask: Ask, answered: Answered) -> bool:
        """Begin to answer a request; false when it is for another way.

        Raises:
            DomainError: When the request is wrong.
        """
        route = self._plane.route(ask.endpoint)
        matrix = ask.matrix
        if matrix is None or ask.instances[0] or ask.unit or ask.version or not route.unattended:
            return False
        check_ask(route, ask)
        count = len(ask.instances)
        ids = IdBlock(count)
        shares = _shares(route, ids)
        if len({variant.plan.outputs for variant, _ in shares}) > 1:
            return False  # an answer has those that all of them have
        given = ask.event_times_us
        when = given[0] if given else time.time_ns() // 1_000
        parts = [_part_of(variant, rows, matrix, count) for variant, rows in shares]
        answer = BlockAnswer(route, ids, count, when, ask.began, parts)
        block = _Block(self, answer, answered)
        try:
            block.parts = [
                _Part(block, part, self._pool.choose(part.variant.model_version)) for part in parts
            ]
        except ReplicaError:
            return False
        if not self._plane.enter(route):
            return False
        self._begin(block, ask, route)
        return True

    def _begin(self, block: _Block, ask: Ask, route: Route) -> None:
        limit = min(route.deadline_s, ask.time_limit)
        if any(each.part.variant is not route.champion for each in block.parts):
            limit *= SHARE_BEFORE_FALLBACK
        block.expires = ask.began + limit
        block.left = len(block.parts)
        self._under_way.add(block)
        for each in block.parts:
            each.stream.submit(each)

    def told(self, block: _Block, part: _Part, outcome: Scored | ReplicaError) -> None:
        """Take the answer of a replica."""
        scores = None if isinstance(outcome, ReplicaError) else _outputs(part.part, outcome.outputs)
        if scores is None:
            self._end(block, None)
            return
        part.part.outputs = scores
        block.left -= 1
        if not block.left:
            self._plane.answered_block(block.answer)
            self._end(block, block.answer)

    def _end(self, block: _Block, answer: BlockAnswer | None) -> None:
        self._under_way.discard(block)
        self._plane.leave(block.answer.route)
        for each in block.parts:
            each.abandoned = True
        block.parts = ()  # they know the request: the collector of cycles has nothing to do
        block.answered(answer)


def _shares(route: Route, ids: IdBlock) -> list[tuple[Variant, npt.NDArray[np.intp] | slice]]:
    """The variants that answer, each with its rows."""
    if route.undivided is not None:
        return [(route.undivided, _ALL)]
    places = _bounds(route.bounds).searchsorted(ids.buckets(), side="right")
    shares = [
        (variant, (places == place).nonzero()[0]) for place, variant in enumerate(route.variants)
    ]
    return [(variant, rows) for variant, rows in shares if len(rows)]


@lru_cache(maxsize=1_024)
def _bounds(bounds: tuple[int, ...]) -> npt.NDArray[np.int64]:
    return np.array(bounds)


def _part_of(
    variant: Variant, rows: npt.NDArray[np.intp] | slice, matrix: bytes, total: int
) -> BlockPart:
    check_width(variant, matrix, total)
    if isinstance(rows, slice):
        return BlockPart(variant, rows, total, matrix)
    width = len(variant.plan.fields)
    taken = np.frombuffer(matrix, "<f4").reshape(total, width).take(rows, axis=0).tobytes()
    return BlockPart(variant, rows, len(rows), taken)


def _outputs(part: BlockPart, data: bytes) -> npt.NDArray[np.float64] | None:
    """Rows x outputs; nothing when a replica's answer makes no sense."""
    width = len(part.variant.plan.outputs)
    if len(data) != part.count * width * 4:
        return None
    outputs = np.frombuffer(data, "<f4").astype(np.float64).reshape(part.count, width)
    # A sum of float32 in float64 is finite when all are.
    return outputs if isfinite(outputs.sum()) else None
