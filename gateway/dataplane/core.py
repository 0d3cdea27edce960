"""The data plane: which variant, its inputs, its answer, what to do when it has none."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Protocol

from gateway.dataplane.ask import MOST_ROWS, Answer, Ask, Prepared, Scored
from gateway.dataplane.prepare import Preparer
from gateway.dataplane.replicas import ReplicaError
from gateway.dataplane.routing import Route, RoutingState, Variant
from gateway.dataplane.scorer import Scorer
from gateway.dataplane.telemetry import observe, refused, under_way
from gateway.problems import Violations
from service_kit.errors import (
    DeadlineExceeded,
    DomainError,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from service_kit.ids import uuid7_str

#: Share of the time left that a variant may use when another one would stand in for it.
_SHARE_BEFORE_FALLBACK = 0.6
_FAILURES = (ReplicaError, Unavailable, DeadlineExceeded, ResourceExhausted)


class Recorder(Protocol):
    """What happens with an answer after it was given."""

    def record(self, ask: Ask, answer: Answer) -> None:
        """Note an answer; must not block."""
        ...


class DataPlane:
    """Answers predictions.

    Args:
        scorer: Has replicas score rows.
        preparer: Makes the inputs.
        recorder: Told of each answer.
    """

    def __init__(self, scorer: Scorer, preparer: Preparer, recorder: Recorder) -> None:
        self.state = RoutingState()
        self._scorer = scorer
        self._preparer = preparer
        self._recorder = recorder
        self._in_flight: dict[str, int] = {}

    def route(self, endpoint: str) -> Route:
        """The route of an endpoint.

        Raises:
            NotFound: `ENDPOINT_NOT_FOUND`.
            Unavailable: `NO_ROUTING_TABLE` before the first state came.
        """
        state = self.state
        route = state.routes.get(endpoint)
        if route is not None:
            return route
        if state.revision < 0:
            raise Unavailable("NO_ROUTING_TABLE", "the gateway has no traffic table yet")
        raise NotFound("ENDPOINT_NOT_FOUND", "no such endpoint is being served", field="endpoint")

    def ready(self, endpoint: str, version: str = "") -> bool:
        """Whether an endpoint, or one version of it, can answer now."""
        route = self.route(endpoint)
        variant = route.with_version(version) if version else route.champion
        return self._scorer.serves(variant)

    async def predict(self, ask: Ask) -> Answer:
        """Answer a request.

        Raises:
            DomainError: When the request is wrong, or nobody and nothing can answer it.
        """
        route = self.route(ask.endpoint)
        count = self._in_flight.get(route.endpoint, 0)
        if route.max_in_flight and count >= route.max_in_flight:
            refused(route, "OVERLOADED")
            raise Unavailable("OVERLOADED", "too many requests are under way at this endpoint")
        self._in_flight[route.endpoint] = count + 1
        under_way(route, count + 1)
        try:
            answer = await self._answer(route, ask)
        except DomainError as error:
            refused(route, error.reason)
            raise
        finally:
            self._in_flight[route.endpoint] -= 1
            under_way(route, self._in_flight[route.endpoint])
        observe(answer, time.monotonic() - ask.began)
        self._recorder.record(ask, answer)
        return answer

    async def _answer(self, route: Route, ask: Ask) -> Answer:
        _check(route, ask)
        ids = [uuid7_str() for _ in ask.instances]
        units = _units(route, ask, ids)
        given = ask.event_times_us
        times = list(given) if given else [time.time_ns() // 1_000] * len(ids)
        deadline = ask.began + min(route.deadline_s, ask.time_limit)
        groups = _groups(route, ask, units)
        work = [
            self._score(
                route, variant, ask, rows, [times[r] for r in rows] if given else None, deadline
            )
            for variant, rows in groups
        ]
        scored = [await work[0]] if len(work) == 1 else await _all(work)
        return Answer(route, ids, units, times, scored)

    async def _score(
        self,
        route: Route,
        variant: Variant,
        ask: Ask,
        rows: list[int],
        times: list[int] | None,
        deadline: float,
    ) -> Scored:
        now = time.monotonic()
        stands_in = variant is not route.champion
        first = now + (deadline - now) * _SHARE_BEFORE_FALLBACK if stands_in else deadline
        prepared: Prepared | None = None
        try:
            prepared = await self._preparer.prepare(variant, ask, rows, times, first)
            outputs, took = await self._scorer.infer(variant, prepared, len(rows), first)
            return Scored(rows, variant, variant, "", outputs, prepared, took)
        except _FAILURES as error:
            failure: Exception = error
        failed: tuple[Variant, ...] = (variant,)
        if stands_in:
            champion = route.champion
            try:
                other = await self._preparer.prepare(champion, ask, rows, times, deadline, prepared)
                outputs, took = await self._scorer.infer(champion, other, len(rows), deadline)
                return Scored(rows, variant, champion, "champion", outputs, other, took, failed)
            except (*_FAILURES, DomainError) as error:
                failure, failed = error, (variant, champion)
        if route.default_outputs:
            outputs = [route.default_outputs] * len(rows)
            return Scored(rows, variant, None, "default", outputs, prepared, 0, failed)
        raise _no_answer(failure) from failure


def _check(route: Route, ask: Ask) -> None:
    rows = len(ask.instances)
    if not 1 <= rows <= MOST_ROWS:
        raise InvalidArgument(
            "WRONG_COUNT", f"must be 1 to {MOST_ROWS} instances", field="instances"
        )
    if ask.event_times_us is not None and len(ask.event_times_us) != rows:
        raise InvalidArgument(
            "WRONG_COUNT", "must be as many as there are instances", field="event_times"
        )
    found = [
        InvalidArgument(
            "UNKNOWN_FIELD", "there is no such input", field=ask.where(row, _shown(key))
        )
        for row, instance in enumerate(ask.instances)
        if not route.accepted.issuperset(instance)
        for key in instance
        if key not in route.accepted
    ]
    if found:
        raise Violations(found[:_MOST_VIOLATIONS])


_MOST_VIOLATIONS = 20


def _shown(name: str) -> str:
    # A field's name is the caller's text: it is named only when it could be one.
    return name if name.isidentifier() and name.isascii() and len(name) <= 64 else "?"


def _units(route: Route, ask: Ask, ids: Sequence[str]) -> list[str]:
    key = route.routing_key
    if not key or ask.matrix is not None:
        return list(ids)
    units = []
    for row, instance in enumerate(ask.instances):
        value = instance.get(key)
        if type(value) not in (str, int) or value == "":
            raise _no_unit(value, ask.where(row, key))
        units.append(str(value))
    return units


def _no_unit(value: object, path: str) -> InvalidArgument:
    if value is None or value == "":
        return InvalidArgument("FIELD_MISSING", "the traffic is split by it", field=path)
    return InvalidArgument("WRONG_TYPE", "must be a string or an integer", field=path)


def _groups(route: Route, ask: Ask, units: Sequence[str]) -> list[tuple[Variant, list[int]]]:
    if ask.version:
        return [(route.with_version(ask.version), list(range(len(units))))]
    groups: dict[str, tuple[Variant, list[int]]] = {}
    for row, unit in enumerate(units):
        variant = route.assign(unit)
        groups.setdefault(variant.name, (variant, []))[1].append(row)
    return list(groups.values())


async def _all(work: Sequence[object]) -> list[Scored]:
    # Every group is awaited, so that a refusal of one leaves nothing behind.
    done = await asyncio.gather(*work, return_exceptions=True)  # type: ignore[call-overload]
    for result in done:
        if isinstance(result, BaseException):
            raise result
    return list(done)


def _no_answer(failure: Exception) -> DomainError:
    reason = getattr(failure, "reason", "UNKNOWN")
    if reason == "DEADLINE_EXCEEDED":
        return DeadlineExceeded(reason, "no model answered in time")
    return Unavailable("NO_ANSWER", "no model can answer now", cause=reason)
