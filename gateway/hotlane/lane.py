"""Which requests take the fast way, and what happens to them there.

The lane answers what succeeds. Everything else (a wrong key, a wrong field, an unknown entity, a
lost replica, a deadline, a caller who is traced) it declines, before or after it has tried, and
the request goes the ordinary way, which finds the same answer or says what is wrong.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Protocol

from gateway.access.service import Door, key_of
from gateway.dataplane.ask import Answer, Ask, BlockAnswer
from gateway.dataplane.blocks import Blocks
from gateway.dataplane.core import DataPlane
from gateway.dataplane.direct import DirectPath
from gateway.dataplane.features import FeatureReader
from gateway.dataplane.lots import Lot, Lots
from gateway.dataplane.pool import ReplicaPool
from gateway.dataplane.routing import Route, RoutingState, Variant
from gateway.dataplane.scorer import Outputs
from gateway.dataplane.template import number_texts
from gateway.dataplane.units import take_header
from gateway.front import MOST_HEADER_BYTES, Front, given_request_id, observe
from gateway.http import DEFAULT_DEADLINE_S, Header, Reply
from gateway.inference_v2.document import HEAD_LENGTH
from service_kit.errors import DomainError

_log = logging.getLogger(__name__)

#: Heads that are kept, and bytes of the longest one: callers send the same ones again and again.
_MOST_KNOWN = 4_096
_MOST_KNOWN_BYTES = 2_048
_OCTETS = b"application/octet-stream"
_KINDS = frozenset((b"", b"application/json"))
#: Headers with which a request goes the ordinary way.
_ELSEWHERE = frozenset(
    (b"expect", b"request-timeout", b"traceparent", b"transfer-encoding", b"upgrade")
)


class BlockForm(Protocol):
    """How an answer to a matrix of rows is wanted."""

    def block_reply(self, answer: BlockAnswer) -> Reply:
        """The answer as it goes out; raises DomainError."""
        ...


class Form(Protocol):
    """How an answer is wanted."""

    @property
    def plain(self) -> bool:
        """Whether nothing is wanted otherwise than usual."""
        ...

    @property
    def block(self) -> BlockForm | None:
        """How an answer to a matrix of rows is wanted, where there are any."""
        ...

    def template(self, route: Route, variant: Variant) -> bytes:
        """A plain answer for one row, to be filled with its id and its outputs."""
        ...

    def reply(self, answer: Answer) -> Reply:
        """The answer as it goes out; raises DomainError."""
        ...


class Caller(Protocol):
    """A request in the lane.

    Attributes:
        admitted: What its head says.
        began: Monotonic time of its arrival.
        form: How its answer is wanted; set by the lane.
    """

    admitted: Admitted
    began: float
    form: Form

    def finish(self, reply: Reply | None, request_id: str) -> None:
        """Told once of the answer, or of none when the ordinary way has to find one."""

    def answer(self, body: bytes, request_id: str) -> None:
        """Told once of the answer, when it is plain JSON."""


class HotRoute(Protocol):
    """A route that can be asked without an ASGI exchange."""

    @property
    def label(self) -> str: ...

    @property
    def scope(self) -> str: ...

    @property
    def most_bytes(self) -> int: ...

    def read(
        self, name: str, body: bytes, head_length: str, began: float, limit: float, /
    ) -> tuple[Ask, Form]:
        """What a body asks for; raises DomainError."""
        ...


@dataclass(frozen=True, slots=True)
class Target:
    """What a path leads to."""

    route: HotRoute
    endpoint: str
    routing_header: bytes


@dataclass(frozen=True, slots=True)
class Admitted:
    """What the head of a request says, which is in order.

    Attributes:
        key: The caller's key.
        head_length: Header `Inference-Header-Content-Length`, or empty.
        request_id: What the caller calls the request, or empty.
        unit: What its routing header says, or nothing.
    """

    target: Target
    key: str
    head_length: str
    request_id: str
    unit: bytes


@dataclass(frozen=True, slots=True)
class KnownHead:
    """A head that was admitted before: the same bytes say the same again.

    Attributes:
        body: Length of the body that follows, in bytes.
    """

    admitted: Admitted
    url: bytes
    headers: list[Header]
    body: int


class HotLane:
    """Takes requests for predictions.

    Args:
        routes: Routes by what comes before and after the endpoint's id in their paths.
    """

    def __init__(
        self,
        plane: DataPlane,
        pool: ReplicaPool,
        reader: FeatureReader,
        door: Door,
        front: Front,
        routes: Mapping[tuple[str, str], HotRoute],
    ) -> None:
        self._plane = plane
        self._direct = DirectPath(plane, pool, reader)
        self._blocks = Blocks(plane, pool)
        self._lots: Lots[Caller] = Lots(plane, pool, self._answered)
        self._door = door
        self._front = front
        self._routes = dict(routes)
        self._state: RoutingState | None = None
        self._targets: dict[bytes, Target] = {}
        self._known: dict[bytes, KnownHead] = {}

    def recall(self, head: bytes) -> KnownHead | None:
        """What is known of a head, when it may pass now; the parser is spared then."""
        if self._state is not self._plane.state:
            self._compile(self._plane.state)
        known = self._known.get(head)
        if known is None:
            return None
        admitted = known.admitted
        return known if self._door.admits(admitted.key, admitted.target.route.scope) else None

    def remember(self, head: bytes, known: KnownHead) -> None:
        """Keep a head that was parsed and admitted, unless it is of one request or one unit."""
        admitted = known.admitted
        if admitted.request_id or admitted.unit or len(head) > _MOST_KNOWN_BYTES:
            return
        if len(self._known) >= _MOST_KNOWN:
            self._known.clear()
        self._known[head] = known

    def admit(self, url: bytes, headers: list[tuple[bytes, bytes]]) -> Admitted | None:
        """Look at the head of a `POST`; nothing when it has to go the ordinary way.

        Args:
            headers: Names in lower case.
        """
        if self._state is not self._plane.state:
            self._compile(self._plane.state)
        target = self._targets.get(url)
        found = dict(headers)
        if target is None or len(found) != len(headers) or not _ELSEWHERE.isdisjoint(found):
            return None
        if sum(map(len, chain(found, found.values()))) + len(url) > MOST_HEADER_BYTES:
            return None
        get = found.get
        head_length = get(HEAD_LENGTH, b"")
        kind = get(b"content-type", b"")
        if kind not in _KINDS and not (kind == _OCTETS and head_length):
            return None
        key = key_of(
            get(b"authorization", b"").decode("latin-1"), get(b"x-api-key", b"").decode("latin-1")
        )
        if not self._door.admits(key, target.route.scope):
            return None
        return Admitted(
            target,
            key,
            head_length.decode("latin-1"),
            given_request_id(get(b"x-request-id", b"")),
            get(target.routing_header, b""),
        )

    def take(self, caller: Caller, body: bytes) -> bool:
        """Begin to answer; false when it has to go the ordinary way."""
        if not self._front.enter():
            return False
        try:
            taken = self._take(caller, body)
        except DomainError:
            taken = False
        except Exception:
            _log.exception("the hot lane failed", extra={"route": _label(caller)})
            taken = False
        if not taken:
            self._front.leave()
        return taken

    def _take(self, caller: Caller, body: bytes) -> bool:
        admitted = caller.admitted
        target = admitted.target
        ask, form = target.route.read(
            *(target.endpoint, body, admitted.head_length, caller.began, DEFAULT_DEADLINE_S)
        )
        if admitted.unit:
            take_header(ask, admitted.unit, target.routing_header)
        caller.form = form
        if len(ask.instances) == 1 and form.plain and self._lots.take(ask, caller):
            return True
        if form.block is not None and ask.matrix is not None:
            done = functools.partial(self._block_done, caller, form.block)
            if self._blocks.take(ask, done):
                return True
        return self._direct.take(ask, functools.partial(self._done, caller))

    def _done(self, caller: Caller, answer: Answer | None) -> None:
        self._front.leave()
        if answer is None:
            caller.finish(None, "")
        else:
            self._finish(caller, functools.partial(caller.form.reply, answer), answer.ids[0])

    def _block_done(self, caller: Caller, form: BlockForm, answer: BlockAnswer | None) -> None:
        self._front.leave()
        if answer is None:
            caller.finish(None, "")
        else:
            self._finish(caller, functools.partial(form.block_reply, answer), answer.ids.first)

    def _finish(self, caller: Caller, make: Callable[[], Reply], first: str) -> None:
        reply: Reply | None = None
        try:
            reply = make()
            observe(_label(caller), "POST", reply.status, caller.began)
        except DomainError:
            pass  # the ordinary way says what is wrong
        except Exception:
            _log.exception("the hot lane failed", extra={"route": _label(caller)})
        # A caller who names no id can find the request by that of its first prediction.
        caller.finish(reply, caller.admitted.request_id or first)

    def _answered(self, lot: Lot[Caller], outputs: Outputs | None) -> None:
        self._front.leave(len(lot.callers))
        if outputs is None:
            for caller in lot.callers:
                caller.finish(None, "")
            return
        texts = number_texts(outputs)
        form: Form | None = None
        template = b""
        for made, numbers, caller in zip(lot.ids, texts, lot.callers, strict=True):
            try:
                if caller.form is not form:
                    form = caller.form
                    template = form.template(lot.route, lot.variant)
                body = template % (made.encode(), *numbers)
                observe(_label(caller), "POST", 200, caller.began)
            except Exception:
                _log.exception("the hot lane failed", extra={"route": _label(caller)})
                form = None
                caller.finish(None, "")
            else:
                caller.answer(body, caller.admitted.request_id or made)

    def _compile(self, state: RoutingState) -> None:
        self._targets = {
            f"{before}{endpoint}{after}".encode(): Target(way, endpoint, route.routing_header)
            for endpoint, route in state.routes.items()
            for (before, after), way in self._routes.items()
        }
        self._known.clear()
        self._state = state


def _label(caller: Caller) -> str:
    return caller.admitted.target.route.label
