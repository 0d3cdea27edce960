"""The data plane: which variant, its inputs, its answer, what to do when it has none."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Sequence
from typing import Any, Protocol

from gateway.dataplane.ask import Answer, Ask, BlockAnswer, LoneRows, Prepared, Scored
from gateway.dataplane.cache import AnswerCache, Known
from gateway.dataplane.last_answers import LAST_ANSWER, LastAnswers
from gateway.dataplane.prepare import Preparer
from gateway.dataplane.replicas import ReplicaError
from gateway.dataplane.routing import ROUTING_HEADER, Route, RoutingState, Variant
from gateway.dataplane.scorer import Scorer
from gateway.dataplane.split import check_ask, groups_of, units_of
from gateway.dataplane.telemetry import (
    gauge_under_way,
    observe,
    observe_block,
    observe_lone,
    refused,
)
from gateway.problems import Violations
from service_kit.errors import (
    DeadlineExceeded,
    DomainError,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from service_kit.ids import uuid7_strs

#: Share of the time left that a variant may use when another one would stand in for it.
SHARE_BEFORE_FALLBACK = 0.6
_FAILURES = (ReplicaError, Unavailable, DeadlineExceeded, ResourceExhausted)


class Recorder(Protocol):
    """What happens with an answer after it was given."""

    def record(self, ask: Ask, answer: Answer) -> None:
        """Note an answer; must not block."""
        ...

    def record_lone(self, rows: LoneRows) -> None:
        """Note answers to requests for one row, which nobody else is to score."""
        ...

    def record_block(self, answer: BlockAnswer) -> None:
        """Note an answer to a matrix of rows, which nobody else is to score."""
        ...


class DataPlane:
    """Answers predictions.

    Args:
        scorer: Has replicas score rows.
        preparer: Makes the inputs.
        recorder: Told of each answer.
        cache: Keeps answers of the endpoints that want it.
        last_answers: Remembers answers of the endpoints that want it.
    """

    def __init__(
        self,
        scorer: Scorer,
        preparer: Preparer,
        recorder: Recorder,
        cache: AnswerCache,
        last_answers: LastAnswers,
    ) -> None:
        self.state = RoutingState()
        self.cache = cache
        self.last_answers = last_answers
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

    def routing_header(self, endpoint: str) -> bytes:
        """The header that names the unit of a request to an endpoint, in lower case."""
        route = self.state.routes.get(endpoint)
        return ROUTING_HEADER if route is None else route.routing_header

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
        if not self.enter(route):
            refused(route, "OVERLOADED")
            raise Unavailable("OVERLOADED", "too many requests are under way at this endpoint")
        try:
            answer = await self.answer(route, ask)
        except DomainError as error:
            refused(route, error.reason)
            raise
        finally:
            self.leave(route)
        self.answered(ask, answer)
        return answer

    def enter(self, route: Route) -> bool:
        """Count a request as under way; false when the endpoint has too many already."""
        count = self._in_flight.get(route.endpoint)
        if count is None:
            count = self._in_flight[route.endpoint] = 0
            gauge_under_way(route.endpoint, self._in_flight)
        if route.max_in_flight and count >= route.max_in_flight:
            return False
        self._in_flight[route.endpoint] = count + 1
        return True

    def leave(self, route: Route, requests: int = 1) -> None:
        """The other end of `enter`."""
        self._in_flight[route.endpoint] -= requests

    def answered(self, ask: Ask, answer: Answer) -> None:
        """Count an answer, and have it recorded."""
        observe(answer, time.monotonic() - ask.began)
        if answer.route.last_answer_rows:
            self.last_answers.remember(ask, answer)
        self._recorder.record(ask, answer)

    def answered_lone(self, rows: LoneRows) -> None:
        """Count answers to requests for one row, and have them recorded."""
        observe_lone(rows)
        self._recorder.record_lone(rows)

    def answered_block(self, answer: BlockAnswer) -> None:
        """Count an answer to a matrix of rows, and have it recorded."""
        observe_block(answer, time.monotonic() - answer.began)
        self._recorder.record_block(answer)

    async def answer(self, route: Route, ask: Ask) -> Answer:
        """Answer a request that is counted as under way, and leave it unrecorded.

        Raises:
            DomainError: As `predict`.
        """
        check_ask(route, ask)
        ids = list(ask.ids or uuid7_strs(len(ask.instances)))
        units = units_of(route, ask, ids)
        given = ask.event_times_us
        times = list(given) if given else [time.time_ns() // 1_000] * len(ids)
        deadline = ask.began + min(route.deadline_s, ask.time_limit)
        groups = groups_of(route, ask, ids, units)
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
        first = now + (deadline - now) * SHARE_BEFORE_FALLBACK if stands_in else deadline
        prepared: Prepared | None = None
        try:
            prepared = await self._preparer.prepare(variant, ask, rows, times, first)
            known = await self._known(route, variant, prepared, len(rows), first)
            features, took = prepared.fallback, known.took_us
            return Scored(
                *(rows, variant, variant, features, known.outputs, prepared, took),
                cached=known.cached,
            )
        except _FAILURES as error:
            failure: Exception = error
        failed: tuple[Variant, ...] = (variant,)
        if stands_in:
            champion = route.champion
            try:
                other = await self._preparer.prepare(champion, ask, rows, times, deadline, prepared)
                outputs, took = await self._scorer.infer(
                    champion, other.matrix, len(rows), deadline
                )
                return Scored(rows, variant, champion, "champion", outputs, other, took, failed)
            except (*_FAILURES, DomainError) as error:
                failure, failed = error, (variant, champion)
        last = self.last_answers.find(route, ask, rows, variant)
        if last is not None:
            return Scored(rows, variant, None, LAST_ANSWER, last, prepared, 0, failed)
        if route.default_outputs:
            outputs = [route.default_outputs] * len(rows)
            return Scored(rows, variant, None, "default", outputs, prepared, 0, failed)
        raise _no_answer(failure) from failure

    async def _known(
        self, route: Route, variant: Variant, prepared: Prepared, rows: int, deadline: float
    ) -> Known:
        """The outputs of a variant, of rows that it has answered before those that are kept."""
        if not route.cache_rows:
            return Known(*await self._scorer.infer(variant, prepared.matrix, rows, deadline), [])
        look = self.cache.look(route, variant, prepared.matrix)
        if not look.missing:
            return look.complete([], 0)
        return look.complete(
            *await self._scorer.infer(variant, look.missing, look.misses, deadline)
        )


async def _all(work: Sequence[Coroutine[Any, Any, Scored]]) -> list[Scored]:
    # Every group is awaited, so that a refusal of one leaves nothing behind and all that is wrong
    # with the request is named.
    done = await asyncio.gather(*work, return_exceptions=True)
    wrong = [each for each in done if isinstance(each, Violations)]
    if len(wrong) > 1:
        raise Violations([found for each in wrong for found in each.found])
    scored = []
    for result in done:
        if isinstance(result, BaseException):
            raise result
        scored.append(result)
    return scored


def _no_answer(failure: Exception) -> DomainError:
    reason = getattr(failure, "reason", "UNKNOWN")
    if reason == "DEADLINE_EXCEEDED":
        return DeadlineExceeded(reason, "no model answered in time")
    return Unavailable("NO_ANSWER", "no model can answer now", cause=reason)
