"""Requests for one row, answered together: what goes to a version in one message is one lot.

Most requests want one row, and most of what such a one costs is not its row. In a lot they share
the way to the replica and back, the log and the metrics; each has its own id, draw and answer.
Only the common case, as in `gateway.dataplane.direct`; all else is left to `DataPlane.predict`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from gateway.dataplane.ask import Ask, LoneRows, Prepared
from gateway.dataplane.core import SHARE_BEFORE_FALLBACK, DataPlane
from gateway.dataplane.deadlines import Deadlines
from gateway.dataplane.pool import ReplicaPool
from gateway.dataplane.prepare import lone_input
from gateway.dataplane.replicas import Item, ReplicaError, ReplicaStream, Scored
from gateway.dataplane.routing import Route, Variant
from gateway.dataplane.scorer import Outputs, decode_outputs
from gateway.dataplane.split import check_ask, units_of
from service_kit.ids import uuid7_str

C = TypeVar("C")
"""Whoever asks for a row."""

#: Rows of one lot: one that can't be scored sends all of them the ordinary way.
MOST_ROWS = 256


class Lot(Item, Generic[C]):
    """Requests for one row each, which one version answers in one message.

    Attributes:
        callers: Who asked, in the order of the rows.
        units: What the traffic was split by; `ids` itself when it was by them.
        began: Monotonic times of arrival.
        matrices: Inputs of each row: float32, little-endian.
        values: The same as the callers gave them, when all are numbers with names.
        expires: Monotonic time at which the first one's time is over.
    """

    __slots__ = (
        *("began", "callers", "expires", "ids", "key", "lots", "matrices", "route", "times_us"),
        *("units", "values", "variant"),
    )

    def __init__(self, lots: Lots[C], key: Key, route: Route, variant: Variant, keyed: bool):
        super().__init__(b"", 0)
        self.lots = lots
        self.key = key
        self.route = route
        self.variant = variant
        self.callers: list[C] = []
        self.ids: list[str] = []
        self.units: list[str] = [] if keyed else self.ids
        self.times_us: list[int] = []
        self.began: list[float] = []
        self.matrices: list[bytes] = []
        self.values: list[float] = []
        self.expires = 0.0

    def sent(self) -> None:
        """It is on its way: nobody joins it any more."""
        self.inputs = b"".join(self.matrices)
        self.lots.close(self)

    def done(self, outcome: Scored | ReplicaError) -> None:
        """A replica has answered, or failed."""
        self.lots.told(self, outcome)

    def prepared(self) -> Prepared:
        """The inputs of all rows."""
        return Prepared({}, self.inputs, values=self.values)


Key = tuple[ReplicaStream, int, bool, bool]
"""What the rows of a lot share: replica, variant, whether a key splits them, form of the inputs."""

Told = Callable[[Lot[Any], Outputs | None], None]
"""Told once of the outputs of a lot, or of nothing when its callers have to go the ordinary way;
must not raise."""


class Lots(Generic[C]):
    """Answers requests for one row.

    Args:
        plane: Knows the routes, counts what is under way, and records the answers.
        pool: The replicas.
        answered: Told of each lot.
    """

    def __init__(self, plane: DataPlane, pool: ReplicaPool, answered: Told) -> None:
        self._plane = plane
        self._pool = pool
        self._answered = answered
        self._open: dict[Key, Lot[C]] = {}
        self._under_way = Deadlines[Lot[C]](lambda lot: self._end(lot, None))

    def take(self, ask: Ask, caller: C) -> bool:
        """Begin to answer a request for one row; false when it is for another way.

        Raises:
            DomainError: When the request is wrong.
        """
        route = self._plane.route(ask.endpoint)
        if not route.unattended or ask.version:
            return False
        check_ask(route, ask)
        ids = [uuid7_str()]
        units = units_of(route, ask, ids)
        keyed = units is not ids
        variant = route.undivided or (route.assign(units[0]) if keyed else route.draw(ids[0]))
        row = lone_input(variant, ask)
        if row is None:
            return False
        try:
            stream = self._pool.choose(variant.model_version)
        except ReplicaError:
            return False
        if not self._plane.enter(route):
            return False
        matrix, values = row
        lot = self._lot((stream, id(variant), keyed, not values), route, variant, ask)
        lot.callers.append(caller)
        lot.ids += ids
        if keyed:
            lot.units += units
        given = ask.event_times_us
        lot.times_us.append(given[0] if given else time.time_ns() // 1_000)
        lot.began.append(ask.began)
        lot.matrices.append(matrix)
        lot.values += values
        stream.grow(lot)
        return True

    def close(self, lot: Lot[C]) -> None:
        """Let nobody join a lot any more."""
        if self._open.get(lot.key) is lot:
            del self._open[lot.key]

    def told(self, lot: Lot[C], outcome: Scored | ReplicaError) -> None:
        """Take the answer of a replica."""
        outputs: Outputs | None = None
        try:
            if not isinstance(outcome, ReplicaError):
                outputs = decode_outputs(lot.variant, outcome.outputs, lot.rows)
        except ReplicaError:
            pass  # it makes no sense
        self._end(lot, outputs)

    def _lot(self, key: Key, route: Route, variant: Variant, ask: Ask) -> Lot[C]:
        """The open lot that a request joins; a new one is on its way at once."""
        lot = self._open.get(key)
        if lot is not None and lot.rows < MOST_ROWS:
            return lot
        stream, _, keyed, _ = key
        lot = self._open[key] = Lot(self, key, route, variant, keyed)
        limit = min(route.deadline_s, ask.time_limit)
        if variant is not route.champion:
            limit *= SHARE_BEFORE_FALLBACK
        lot.expires = ask.began + limit
        self._under_way.add(lot)
        stream.submit(lot)
        return lot

    def _end(self, lot: Lot[C], outputs: Outputs | None) -> None:
        lot.abandoned = True
        self.close(lot)
        self._under_way.discard(lot)
        self._plane.leave(lot.route, lot.rows)
        now = time.monotonic()
        self._answered(lot, outputs)
        if outputs is not None:
            rows = LoneRows(
                *(lot.route, lot.variant, lot.ids, lot.units, lot.times_us),
                *([each[0] for each in outputs], [now - began for began in lot.began]),
                lot.prepared(),
            )
            self._plane.answered_lone(rows)
