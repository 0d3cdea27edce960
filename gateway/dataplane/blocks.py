"""Requests for many rows that come as a matrix, answered by columns: nothing is done row by row.

Only the common case, as in `gateway.dataplane.direct`; all else is left to `DataPlane.predict`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from math import isfinite

import numpy as np
import numpy.typing as npt

from gateway.dataplane.ask import Ask, BlockAnswer
from gateway.dataplane.core import SHARE_BEFORE_FALLBACK, DataPlane
from gateway.dataplane.deadlines import Deadlines
from gateway.dataplane.id_block import IdBlock
from gateway.dataplane.pool import ReplicaPool
from gateway.dataplane.prepare import check_width
from gateway.dataplane.replicas import Item, ReplicaError, Scored
from gateway.dataplane.split import check_ask

_NOTHING: npt.NDArray[np.float64] = np.empty((0, 0))

Answered = Callable[[BlockAnswer | None], None]
"""Told once of an answer, or of nothing when the ordinary way has to find one; must not raise."""


class _Block(Item):
    """A request under way."""

    __slots__ = ("answer", "answered", "blocks", "expires")

    def __init__(
        self, blocks: Blocks, answer: BlockAnswer, expires: float, answered: Answered
    ) -> None:
        super().__init__(answer.matrix, answer.count)
        self.blocks = blocks
        self.answer = answer
        self.expires = expires
        self.answered = answered

    def done(self, outcome: Scored | ReplicaError) -> None:
        """A replica has answered, or failed."""
        self.blocks.told(self, outcome)


class Blocks:
    """Answers requests that come as a matrix, each by one version.

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
        variant = route.undivided or route.draw(ids.first)
        check_width(variant, matrix, count)
        try:
            stream = self._pool.choose(variant.model_version)
        except ReplicaError:
            return False
        if not self._plane.enter(route):
            return False
        given = ask.event_times_us
        when = given[0] if given else time.time_ns() // 1_000
        limit = min(route.deadline_s, ask.time_limit)
        if variant is not route.champion:
            limit *= SHARE_BEFORE_FALLBACK
        answer = BlockAnswer(route, variant, ids, count, when, ask.began, matrix, _NOTHING)
        block = _Block(self, answer, ask.began + limit, answered)
        self._under_way.add(block)
        stream.submit(block)
        return True

    def told(self, block: _Block, outcome: Scored | ReplicaError) -> None:
        """Take the answer of a replica."""
        answer = block.answer
        scores = None if isinstance(outcome, ReplicaError) else _outputs(answer, outcome.outputs)
        if scores is None:
            self._end(block, None)
            return
        answer.outputs = scores
        self._plane.answered_block(answer)
        self._end(block, answer)

    def _end(self, block: _Block, answer: BlockAnswer | None) -> None:
        self._under_way.discard(block)
        self._plane.leave(block.answer.route)
        block.abandoned = True
        block.answered(answer)


def _outputs(answer: BlockAnswer, data: bytes) -> npt.NDArray[np.float64] | None:
    """Rows x outputs; nothing when a replica's answer makes no sense."""
    width = len(answer.variant.plan.outputs)
    if len(data) != answer.count * width * 4:
        return None
    outputs = np.frombuffer(data, "<f4").astype(np.float64).reshape(answer.count, width)
    # A sum of float32 in float64 is finite when all are.
    return outputs if isfinite(outputs.sum()) else None
