"""The common case of a prediction, answered by callbacks: no task, no future, no timer of its own.

Only that case: every variant has a replica, every feature that is looked up is there, and nothing
goes wrong. Whatever else there is (an unknown entity, a lost replica, a model's failure, a
deadline) is left to `DataPlane.predict`, so that there is one place that knows what to do then.
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
from gateway.dataplane.feature_wire import FeatureColumns
from gateway.dataplane.features import FeatureReader, Lookup
from gateway.dataplane.pool import ReplicaPool
from gateway.dataplane.prepare import Needs, add_features, given_inputs, needs_of
from gateway.dataplane.replicas import Item, ReplicaError, ReplicaStream
from gateway.dataplane.replicas import Scored as Outcome
from gateway.dataplane.routing import Route, Variant
from gateway.dataplane.scorer import decode_outputs
from gateway.dataplane.split import check_ask, groups_of, units_of
from service_kit.errors import DomainError, Unavailable
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
        stream: Nothing when the cache has all the answers, and until what is looked up is there.
        look: What the cache has, where answers are kept; only what it lacks is sent.
        needs: What is to be looked up before, if anything.
        lookup: Set while it is looked up.
    """

    __slots__ = (
        "look",
        "lookup",
        "needs",
        "path",
        "pending",
        "places",
        "prepared",
        "stream",
        "variant",
    )
    pending: Pending

    def __init__(
        self,
        path: DirectPath,
        variant: Variant,
        places: list[int],
        prepared: Prepared,
        look: Look | None,
        needs: Needs | None,
    ) -> None:
        if look is None:
            super().__init__(prepared.matrix, len(places))
        else:
            super().__init__(look.missing, look.misses)
        self.path = path
        self.variant = variant
        self.places = places
        self.prepared = prepared
        self.stream: ReplicaStream | None = None
        self.look = look
        self.needs = needs
        self.lookup: Lookup | None = None

    def looked_up(self, found: FeatureColumns | DomainError) -> None:
        """The features are there, or not to be had."""
        self.path.complete(self, found)

    def done(self, outcome: Outcome | ReplicaError) -> None:
        """A replica has answered, or failed."""
        self.path.told(self.pending, self, outcome)


class DirectPath:
    """Answers the common case.

    Args:
        plane: Knows the routes, counts what is under way, and records the answers.
        pool: The replicas.
        reader: The online store.
    """

    def __init__(self, plane: DataPlane, pool: ReplicaPool, reader: FeatureReader) -> None:
        self._plane = plane
        self._pool = pool
        self._reader = reader
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
            self._start(part)
        return True

    def _parts(self, route: Route, ask: Ask, ids: list[str], units: list[str]) -> list[_Part]:
        """A part for each variant; none at all when one of them is for the ordinary way."""
        parts = []
        for variant, rows in groups_of(route, ask, ids, units):
            part = self._part(route, ask, variant, rows)
            if part is None:
                return []
            parts.append(part)
        return parts

    def _part(self, route: Route, ask: Ask, variant: Variant, rows: list[int]) -> _Part | None:
        prepared = given_inputs(variant, ask, rows)
        given = ask.event_times_us
        as_of = [given[row] for row in rows] if given else None
        needs = needs_of(variant, ask, prepared, as_of)
        look: Look | None = None
        if route.cache_rows:
            if needs is not None:
                return None
            look = self._plane.cache.look(route, variant, prepared.matrix)
        part = _Part(self, variant, rows, prepared, look, needs)
        if needs is None and (look is None or look.missing):
            try:
                part.stream = self._pool.choose(variant.model_version)
            except ReplicaError:
                return None
        return part

    def _start(self, part: _Part) -> None:
        loop = asyncio.get_running_loop()
        if part.needs is not None:
            try:
                part.lookup = self._reader.ask(*part.needs, part.pending.expires, part.looked_up)
            except DomainError as error:
                loop.call_soon(part.looked_up, error)
        elif part.stream is not None:
            part.stream.submit(part)
        else:
            # Not at once: whoever asks does not expect the answer before this returns.
            loop.call_soon(self._told_known, part)

    def complete(self, part: _Part, found: FeatureColumns | DomainError) -> None:
        """Send a part once its features are there."""
        part.lookup = None
        if part.pending not in self._pending:
            return
        try:
            if isinstance(found, DomainError):
                raise found
            if add_features(part.variant, part.prepared, found, part.rows) is not None:
                raise Unavailable("FEATURE_MISSING", "a required feature has no value")
            stream = self._pool.choose(part.variant.model_version)
        except (DomainError, ReplicaError):
            self._give_up(part.pending)  # the ordinary way says what is wrong
            return
        part.inputs = part.prepared.matrix
        stream.submit(part)

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
                *(part.places, variant, variant, part.prepared.fallback, outputs),
                *(part.prepared, took),
                cached=cached,
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
            if part.lookup is not None:
                part.lookup.abandoned = True
                part.lookup = None
        pending.parts = ()  # they know the request: the collector of cycles has nothing to do

    def _give_up(self, pending: Pending) -> None:
        self._leave(pending)
        pending.done(None)
