"""One HTTP exchange, framework-free: what came in, what goes out."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    MutableMapping,
    Sequence,
)
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import parse_qsl

from gateway.problems import encode_problem, encode_v2_problem, problem_headers, status_of
from service_kit import telemetry
from service_kit.context import Caller
from service_kit.errors import DeadlineExceeded, DomainError, InvalidArgument

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Header = tuple[bytes, bytes]

JSON = (b"content-type", b"application/json")
NDJSON = (b"content-type", b"application/x-ndjson")
#: Headers of most answers.
PLAIN: Sequence[Header] = (JSON,)
#: Keys under which the front leaves things in the ASGI scope.
REQUEST_ID, ROUTE = "modelyard.request_id", "modelyard.route"
#: Key under which a faster way in leaves when a request arrived (monotonic seconds).
BEGAN = "modelyard.began"

DEFAULT_DEADLINE_S = 30.0
LONGEST_DEADLINE_S = 300.0
_SECONDS = re.compile(r"\d{1,6}(\.\d{1,6})?")
_MOST_PARAMETERS = 200


@dataclass(slots=True)
class Reply:
    """An answer: a status, headers, and a body at once or in parts."""

    body: bytes = b""
    status: int = 200
    headers: Sequence[Header] = PLAIN
    parts: AsyncGenerator[bytes, None] | None = None

    async def send(self, send: Send) -> None:
        """Send it."""
        headers = list(self.headers)
        if self.parts is None:
            headers.append((b"content-length", b"%d" % len(self.body)))
        start = {"type": "http.response.start", "status": self.status, "headers": headers}
        await send(start)
        if self.parts is not None:
            async with aclosing(self.parts) as parts:
                async for part in parts:
                    await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": self.body})


def problem_reply(error: DomainError, request_id: str, *, v2: bool = False) -> Reply:
    """An error as an answer; with `v2` as the Open Inference Protocol wants it, too."""
    trace_id, _ = telemetry.trace_ids()
    encode = encode_v2_problem if v2 else encode_problem
    body = encode(error, trace_id=trace_id, request_id=request_id)
    return Reply(body, status_of(error), problem_headers(error))


class Handler(Protocol):
    """What answers a route.

    Attributes:
        label: The route's template, for metrics.
        scope: Scope that a caller must hold; nobody may call when it is empty.
    """

    @property
    def label(self) -> str: ...

    @property
    def scope(self) -> str: ...

    async def handle(self, exchange: Exchange) -> Reply:
        """Answer.

        Raises:
            DomainError: When it can't.
        """
        ...


@dataclass(slots=True)
class Exchange:
    """A request that found its route and passed the door.

    Attributes:
        values: What the path binds.
        caller: Who asks.
        began: Monotonic time of its arrival.
        body_timeout: Longest pause between two parts of the body, in seconds.
    """

    asgi: Scope
    receive: Receive
    values: dict[str, str]
    caller: Caller
    began: float
    body_timeout: float = 20.0

    def header(self, name: bytes) -> str:
        """A header's value (name in lower case), or an empty string."""
        return header(self.asgi, name)

    def raw_header(self, name: bytes) -> bytes:
        """A header's value (name in lower case) as it came, or nothing."""
        return self.header(name).encode("latin-1")

    def query(self) -> list[tuple[str, str]]:
        """Query parameters in their order.

        Raises:
            InvalidArgument: `MALFORMED_QUERY`.
        """
        text = self.asgi["query_string"]
        if not text:
            return []
        try:
            return parse_qsl(
                text.decode("ascii"),
                keep_blank_values=True,
                errors="strict",
                max_num_fields=_MOST_PARAMETERS,
            )
        except ValueError:
            raise InvalidArgument("MALFORMED_QUERY", "the query cannot be read") from None

    def time_limit(self, default: float = DEFAULT_DEADLINE_S) -> float:
        """Seconds that the call may take: the `Request-Timeout` header's or the default.

        Raises:
            InvalidArgument: `INVALID_TIMEOUT`.
        """
        return time_limit(self.header(b"request-timeout"), default)

    async def body(self, limit: int) -> bytes:
        """The whole body.

        Raises:
            InvalidArgument: `BODY_TOO_LARGE`.
            DeadlineExceeded: `BODY_TIMEOUT` when the sender pauses too long.
        """
        self.check_length(limit)
        parts = [part async for part in self.chunks(limit)]
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def check_length(self, limit: int) -> None:
        """Refuse a body that says itself that it is too large, before any of it is read."""
        length = self.header(b"content-length")
        if length and (not length.isdecimal() or int(length[:20]) > limit):
            raise too_large(limit)

    async def chunks(self, limit: int) -> AsyncIterator[bytes]:
        """The body in the parts that it comes in; like `body` for its errors."""
        size = 0
        more = True
        while more:
            message = await self._next_message()
            part = message.get("body", b"")
            more = message.get("more_body", False)
            size += len(part)
            if size > limit:
                raise too_large(limit)
            if part:
                yield part

    async def _next_message(self) -> MutableMapping[str, Any]:
        try:
            async with asyncio.timeout(self.body_timeout):
                message = await self.receive()
        except TimeoutError:
            raise DeadlineExceeded("BODY_TIMEOUT", "the body did not arrive in time") from None
        if message["type"] == "http.disconnect":
            raise DeadlineExceeded("CLIENT_LEFT", "the caller left")
        return message


def header(scope: Scope, name: bytes) -> str:
    """A header's value (name in lower case), or an empty string."""
    for key, value in scope["headers"]:
        if key == name:
            return str(value.decode("latin-1"))
    return ""


def time_limit(text: str, default: float = DEFAULT_DEADLINE_S) -> float:
    """Seconds of a `Request-Timeout` header; the default when it is empty."""
    if not text:
        return default
    seconds = float(text) if _SECONDS.fullmatch(text) else math.nan
    if not 0 < seconds <= LONGEST_DEADLINE_S:
        raise InvalidArgument(
            "INVALID_TIMEOUT",
            f"must be seconds, more than 0 and at most {LONGEST_DEADLINE_S:.0f}",
            field="Request-Timeout",
        )
    return seconds


def too_large(limit: int) -> InvalidArgument:
    """The refusal of a body."""
    return InvalidArgument("BODY_TOO_LARGE", f"the body may have {limit} bytes at most")


def require_json(exchange: Exchange, *more: str) -> None:
    """Refuse a body that says it is no JSON.

    Raises:
        InvalidArgument: `UNSUPPORTED_MEDIA_TYPE`.
    """
    kind = exchange.header(b"content-type").partition(";")[0].strip().lower()
    if kind and kind != "application/json" and not kind.endswith("+json") and kind not in more:
        raise InvalidArgument("UNSUPPORTED_MEDIA_TYPE", "the body must be application/json")
