"""`EventScoringService`: micro-batches of events, each answered as a request of its own."""

# ruff: noqa: N802 - the names and forms that generated code asks for

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

from modelyard.dataplane.v1 import dataplane_pb2, dataplane_pb2_grpc

from gateway.dataplane.ask import MOST_ROWS, Answer, Ask
from gateway.dataplane.core import DataPlane
from gateway.dataplane.inputs import instance_path
from gateway.dataplane.routing import Route
from gateway.dataplane.telemetry import refused
from gateway.grpc_door import time_left
from gateway.transcoder.requests import parse_json
from service_kit.errors import (
    DomainError,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    Unavailable,
)

#: Events worked on together: a few milliseconds of this process, between which requests get
#: their turn.
AT_ONCE = 32
#: Left of the caller's time for the answer to get back, in seconds.
_SPARE_S = 0.5
_IN_EVENT, _EVENT_TIME = instance_path(0, ""), "event_times[0]"
#: What a replica says when it had the rows and could make nothing of them.
_MODEL_FAILURES = frozenset({"MODEL_FAILED", "OUTPUT_NOT_FINITE", "WRONG_OUTPUT_SHAPE"})

_log = logging.getLogger(__name__)
Event = dataplane_pb2.ScoredEvent


class EventScoringServicer(dataplane_pb2_grpc.EventScoringServiceServicer):
    """Answers by the data plane.

    A request for many rows would be refused, or fall back, as a whole for what is wrong with one
    of them; so every event is asked for alone, and the replicas' streams put them together again.
    """

    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane

    async def ScoreEvents(
        self, request: dataplane_pb2.ScoreEventsRequest, context: Any
    ) -> dataplane_pb2.ScoreEventsResponse:
        """Score events."""
        began, limit = time_left(context)
        end = began + max(0.0, limit - _SPARE_S)
        instances = _instances(request)
        route = self._plane.route(request.endpoint.removeprefix("endpoints/"))
        if not self._plane.enter(route):
            refused(route, "OVERLOADED")
            raise Unavailable("OVERLOADED", "too many requests are under way at this endpoint")
        response = dataplane_pb2.ScoreEventsResponse()
        try:
            for start in range(0, len(instances), AT_ONCE):
                rows = range(start, min(start + AT_ONCE, len(instances)))
                each = (self._score(route, request, instances, row, end) for row in rows)
                response.events.extend(await asyncio.gather(*each))
        finally:
            self._plane.leave(route)
        return response

    async def _score(
        self,
        route: Route,
        request: dataplane_pb2.ScoreEventsRequest,
        instances: Sequence[Mapping[str, Any]],
        row: int,
        end: float,
    ) -> Event:
        now = time.monotonic()
        if now >= end:
            return Event(outcome=Event.OUTCOME_UNAVAILABLE, error_reason="DEADLINE_EXCEEDED")
        ask = Ask(
            route.endpoint.removeprefix("endpoints/"),
            [instances[row]],
            event_times_us=[request.event_times_us[row]],
            ids=[request.prediction_ids[row]],
            began=now,
            time_limit=end - now,
        )
        try:
            answer = await self._plane.answer(route, ask)
        except DomainError as error:
            refused(route, error.reason)
            return _without(error)
        except Exception:
            _log.exception("an event could not be scored", extra={"endpoint": route.endpoint})
            return Event(outcome=Event.OUTCOME_FAILED, error_reason="INTERNAL")
        self._plane.answered(ask, answer)
        return _scored(answer)


def _instances(request: dataplane_pb2.ScoreEventsRequest) -> list[dict[str, Any]]:
    found = parse_json(request.instances)
    if type(found) is not list or not all(type(each) is dict for each in found):
        raise InvalidArgument("WRONG_TYPE", "must be a list of objects", field="instances")
    if not 1 <= len(found) <= MOST_ROWS:
        raise InvalidArgument("WRONG_COUNT", f"must be 1 to {MOST_ROWS}", field="instances")
    for name in ("prediction_ids", "event_times_us"):
        if len(getattr(request, name)) != len(found):
            raise InvalidArgument("WRONG_COUNT", "must be as many as the instances", field=name)
    return found


def _scored(answer: Answer) -> Event:
    (group,) = answer.scored
    served = group.served
    return Event(
        outcome=Event.OUTCOME_SCORED,
        outputs=dict(zip(group.output_names, group.outputs[0], strict=False)),
        variant=served.name if served else "",
        model_version=served.model_version if served else "",
        fallback=group.fallback,
        table_generation=answer.route.generation,
    )


def _without(error: DomainError) -> Event:
    """What becomes of an event that has no answer.

    Only an error that names a field of the event is the event's own: any other, whatever its
    kind, comes of the state of the suite.
    """
    field = error.field or ""
    of_event = field.startswith(_IN_EVENT) or field == _EVENT_TIME
    if of_event and isinstance(error, InvalidArgument | NotFound | FailedPrecondition):
        shown = "time" if field == _EVENT_TIME else field.removeprefix(_IN_EVENT)
        return Event(outcome=Event.OUTCOME_REFUSED, error_reason=error.reason, error_field=shown)
    cause = error.metadata.get("cause", "")
    if cause in _MODEL_FAILURES:
        return Event(outcome=Event.OUTCOME_FAILED, error_reason=cause)
    return Event(outcome=Event.OUTCOME_UNAVAILABLE, error_reason=cause or error.reason)
