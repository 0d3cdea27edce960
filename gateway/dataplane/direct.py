"""The common case of a prediction, answered by callbacks: no task, no future, no timer of its own.

Only that case: the caller gives every input, every variant has a replica, and nothing goes wrong.
Whatever else there is (features to look up, a lost replica, a model's failure, a deadline) is left
to `DataPlane.predict`, so that there is one place that knows what to do then.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from gateway.dataplane.ask import Answer, Ask, Prepared, Scored
from gateway.dataplane.cache import Look
from gateway.dataplane.core import SHARE_BEFORE_FALLBACK, DataPlane
from gateway.dataplane.deadlines import Deadlines
from gateway.dataplane.pool import ReplicaPool
from gateway.dataplane.prepare import given_inputs
from gateway.dataplane.replicas import Item, ReplicaError, ReplicaStream
from gateway.dataplane.replicas import Scored as Outcome
from gateway.dataplane.routing import Route, Variant
from gateway.dataplane.scorer import decode_outputs
from gateway.dataplane.split import check_ask, groups_of, units_of
from service_kit.ids import uuid7_strs

_NOTHING = Outcome(b"", 0)
_NONE: Sequence[bool] = ()

Done = Callable[[Answer | None], None]
"""Told once of the answer, or of nothing when the ordinary way has to find one; must not raise."""


@dataclass(slots=True, eq=False)
class Pending:
    """A request under way.

    Attributes:
        left: Groups without an answer.
    """

    route: Route
    ask: Ask
    ids: list[str]
    units: list[str]
    times: list[int]
    expires: float
    done: Done
    left: int
    scored: list[Scored] = field(default_factory=list)
    parts: Sequence[_Part] = ()


class _Part(Item):
    """The rows of a request that one variant answers.

    Attributes:
        places: Places of the rows in the request.
        stream: Nothing when the cache has all the answers.
        look: What the cache has, where answers are kept; only what it lacks is sent.
    """

    __slots__ = ("look", "path", "pending", "places", "prepared", "stream", "variant")
    pending: Pending

    def __init__(
        self,
        path: DirectPath,
        variant: Variant,
        places: list[int],
        prepared: Prepared,
        stream: ReplicaStream | None,
        look: Look | None = None,
    ) -> None:
        if look is None:
            super().__init__(prepared.matrix, len(places))
        else:
            super().__init__(look.missing, look.misses)
        self.path = path
        self.variant = variant
        self.places = places
        self.prepared = prepared
        self.stream = stream
        self.look = look

    def done(self, outcome: Outcome | ReplicaError) -> None:
        """A replica has answered, or failed."""
        self.path.told(self.pending, self, outcome)


class DirectPath:
    """Answers the common case.

    Args:
        plane: Knows the routes, counts what is under way, and records the answers.
        pool: The replicas.
    """

    def __init__(self, plane: DataPlane, pool: ReplicaPool) -> None:
        self._plane = plane
        self._pool = pool
        self._pending = Deadlines[Pending](self._give_up)

    def take(self, ask: Ask, done: Done) -> bool:
        """Begin to answer a request; false when it is for the ordinary way.

        Raises:
            DomainError: When the request is wrong.
        """
        route = self._plane.route(ask.endpoint)
        check_ask(route, ask)
        ids = uuid7_strs(len(ask.instances))
        units = units_of(route, ask, ids)
        parts = self._parts(route, ask, ids, units)
        if not parts or not self._plane.enter(route):
            return False
        limit = min(route.deadline_s, ask.time_limit)
        if any(part.variant is not route.champion for part in parts):
            limit *= SHARE_BEFORE_FALLBACK
        given = ask.event_times_us
        times = list(given) if given else [time.time_ns() // 1_000] * len(ids)
        pending = Pending(route, ask, ids, units, times, ask.began + limit, done, len(parts))
        pending.parts = parts
        self._pending.add(pending)
        for part in parts:
            part.pending = pending
            if part.stream is not None:
                part.stream.submit(part)
            else:
                # Not at once: whoever asks does not expect the answer before this returns.
                asyncio.get_running_loop().call_soon(self._told_known, part)
        return True

    def _parts(self, route: Route, ask: Ask, ids: list[str], units: list[str]) -> list[_Part]:
        parts = []
        for variant, rows in groups_of(route, ask, ids, units):
            if variant.plan.looked_up:
                return []
            if route.cache_rows:
                part = self._known_part(route, ask, variant, rows)
                if part is None:
                    return []
                parts.append(part)
                continue
            try:
                stream = self._pool.choose(variant.model_version)
            except ReplicaError:
                return []
            parts.append(_Part(self, variant, rows, given_inputs(variant, ask, rows), stream))
        return parts

    def _known_part(
        self, route: Route, ask: Ask, variant: Variant, rows: list[int]
    ) -> _Part | None:
        """A part of which the cache may know some rows; nothing when others want a replica."""
        prepared = given_inputs(variant, ask, rows)
        look = self._plane.cache.look(route, variant, prepared.matrix)
        if not look.missing:
            return _Part(self, variant, rows, prepared, None, look)
        try:
            stream = self._pool.choose(variant.model_version)
        except ReplicaError:
            return None
        return _Part(self, variant, rows, prepared, stream, look)

    def _told_known(self, part: _Part) -> None:
        if part.pending in self._pending:  # its time may be over
            self.told(part.pending, part, _NOTHING)

    def told(self, pending: Pending, part: _Part, outcome: Outcome | ReplicaError) -> None:
        """Take the answer of a replica."""
        try:
            if isinstance(outcome, ReplicaError):
                raise outcome
            outputs = decode_outputs(part.variant, outcome.outputs, part.rows)
        except ReplicaError:
            self._give_up(pending)
            return
        variant, took, cached = part.variant, outcome.took_us, _NONE
        if part.look is not None:
            outputs, took, cached = part.look.complete(outputs, took)
        pending.scored.append(
            Scored(
                *(part.places, variant, variant, "", outputs, part.prepared, took), cached=cached
            )
        )
        pending.left -= 1
        if not pending.left:
            self._leave(pending)
            answer = Answer(
                pending.route, pending.ids, pending.units, pending.times, pending.scored
            )
            self._plane.answered(pending.ask, answer)
            pending.done(answer)

    def _leave(self, pending: Pending) -> None:
        self._pending.discard(pending)
        self._plane.leave(pending.route)
        for part in pending.parts:
            part.abandoned = True
        pending.parts = ()  # they know the request: the collector of cycles has nothing to do

    def _give_up(self, pending: Pending) -> None:
        self._leave(pending)
        pending.done(None)
