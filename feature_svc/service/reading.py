"""Online reads: one, or all that have come meanwhile in one trip to the store."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple, ParamSpec, Protocol, TypeVar

from feature_svc.domain.online.cells import Reply
from feature_svc.domain.online.found import FeatureRows
from feature_svc.domain.online.plan import Asked, Command, Keys, ReadPlan, compile_plan
from feature_svc.service.catalog import CurrentDefinitions, find_service
from feature_svc.service.remembered import RememberedReplies
from service_kit import metrics
from service_kit.clock import Clock
from service_kit.errors import DomainError, Internal, InvalidArgument, Unavailable

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MOST_PLANS = 1_000
#: Seconds after the store has failed for which it is asked only for what memory lacks: one that
#: hangs costs each read its time limit.
REST_S = 0.5
_MICROSECOND = timedelta(microseconds=1)
P = ParamSpec("P")
T = TypeVar("T")
_log = logging.getLogger(__name__)
_given = metrics.counter(
    "features_remembered_total", "Rows answered from memory while the store was away."
)


class Source(Protocol):
    """What is read from."""

    @property
    def project(self) -> str: ...
    def read(self, commands: Sequence[Command]) -> list[Reply]: ...


class Wanted(NamedTuple):
    """Features that somebody wants.

    Attributes:
        service: Id of a feature service.
        keys: A column of n values for each join key of the service.
        as_of_us: When values of each of the n rows must not have outlived their time to live,
            microseconds since the epoch, 0 for now; empty when it is now for all.
    """

    service: str
    keys: Keys
    as_of_us: Sequence[int] = ()


class _Ready(NamedTuple):
    plan: ReadPlan
    asked: Asked
    moments: Sequence[int]

    def answer(self, replies: Sequence[Reply]) -> FeatureRows:
        return self.plan.answer(self.asked, replies, self.moments)


class _Fetched(NamedTuple):
    """Replies, if there are any, and whether they come from memory."""

    replies: Sequence[Reply] | None
    remembered: bool


class OnlineReads:
    """Reads features.

    Values are the newest of each entity, also those newer than the moment that is asked for. One
    that was never written, or whose time to live is over, is missing, with a status that says
    which.

    Args:
        current: The definitions in force.
        source: The online store.
        memory: What it said last, given, and marked, when it does not answer.
    """

    def __init__(
        self,
        clock: Clock,
        current: CurrentDefinitions,
        source: Source,
        memory: RememberedReplies,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._monotonic = monotonic
        self._current = current
        self._source = source
        self._memory = memory
        self._rests_until = 0.0
        self._plans: dict[tuple[int, str], ReadPlan] = {}

    def read(self, wanted: Wanted) -> FeatureRows:
        """The features of some entities.

        Raises:
            NotFound: There is no such feature service.
            InvalidArgument: `UNEVEN_COLUMNS`, or a key column is missing, unknown or of another
                type.
            Unavailable: The online store does not answer, and memory does not stand in for it.
        """
        ready = self._prepared(wanted)
        (fetched,) = self._fetched([ready.asked.commands])
        return _answered(ready, fetched)

    def read_all(self, wanted: Sequence[Wanted]) -> list[FeatureRows | DomainError]:
        """What each reader wants, or why it gets nothing, in one trip to the store."""
        found = [_tried(self._prepared, each) for each in wanted]
        ready = [each.asked.commands for each in found if isinstance(each, _Ready)]
        fetched = iter(self._fetched(ready))
        return [
            _tried(_answered, each, next(fetched)) if isinstance(each, _Ready) else each
            for each in found
        ]

    def _fetched(self, asked: Sequence[Sequence[Command]]) -> list[_Fetched]:
        """The replies to each, in one trip to the store; from memory when it does not answer."""
        fetched = [_Fetched(None, remembered=True)] * len(asked)
        if self._monotonic() < self._rests_until:
            fetched = [_Fetched(self._memory.recall(each), remembered=True) for each in asked]
        missing = [at for at, each in enumerate(fetched) if each.replies is None]
        writes = self._memory.writes
        try:
            replies = self._source.read([each for at in missing for each in asked[at]])
        except Unavailable:
            self._rests_until = self._monotonic() + REST_S
            for at in missing:
                fetched[at] = _Fetched(self._memory.recall(asked[at]), remembered=True)
            return fetched
        if missing:
            self._rests_until = 0.0
        end = 0
        for at in missing:
            start, end = end, end + len(asked[at])
            self._memory.note(asked[at], replies[start:end], writes)
            fetched[at] = _Fetched(replies[start:end], remembered=False)
        return fetched

    def _prepared(self, wanted: Wanted) -> _Ready:
        plan = self._plan(wanted.service)
        asked = plan.ask(wanted.keys)
        now = micros(self._clock.now())
        if not wanted.as_of_us:
            moments: Sequence[int] = [now] * asked.rows
        elif len(wanted.as_of_us) != asked.rows:
            raise InvalidArgument("UNEVEN_COLUMNS", "has another length", field="as_of_us")
        else:
            moments = [each or now for each in wanted.as_of_us]
        return _Ready(plan, asked, moments)

    def _plan(self, service: str) -> ReadPlan:
        generation, definitions = self._current.get()
        plan = self._plans.get((generation, service))
        if plan is None:
            found = find_service(definitions, service, field="feature_service")
            plan = compile_plan(definitions, found, self._source.project)
            if len(self._plans) >= _MOST_PLANS:
                self._plans = {}
            self._plans[generation, service] = plan
        return plan


def _answered(ready: _Ready, fetched: _Fetched) -> FeatureRows:
    if fetched.replies is None:
        raise Unavailable("ONLINE_STORE_UNAVAILABLE", "the online store does not answer")
    found = ready.answer(fetched.replies)
    found.remembered = fetched.remembered
    if found.remembered:
        _given.inc(len(found.times))
    return found


def _tried(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | DomainError:
    # What is wrong with one read is no matter of the others.
    try:
        return work(*args, **kwargs)
    except DomainError as error:
        return error
    except Exception:
        _log.exception("an online read failed")
        return Internal("INTERNAL", "internal error")


def micros(moment: datetime) -> int:
    """Microseconds since the epoch."""
    return (moment - EPOCH) // _MICROSECOND
