"""The front door of every HTTP request: ids, trace, concurrency, metrics, problems."""

from __future__ import annotations

import functools
import logging
import re
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from opentelemetry.trace import SpanKind

from gateway.http import BEGAN, REQUEST_ID, ROUTE, Receive, Scope, Send, header, problem_reply
from service_kit import metrics, telemetry
from service_kit.errors import DomainError, Internal, InvalidArgument, Unavailable
from service_kit.ids import uuid7_str

App = Callable[[Scope, Receive, Send], Awaitable[None]]

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
MOST_HEADER_BYTES = 32 * 1024
#: Header of every answer.
NOSNIFF = (b"x-content-type-options", b"nosniff")
_UNROUTED = "unrouted"
_V2 = "/v2"
_API = ("/v1/", _V2)
_PROBES = "/v2/health/"
_METHODS = frozenset(("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"))
#: Answered even when the gateway is full: whoever watches must see that it is.
_ALWAYS = frozenset(("/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"))

_log = logging.getLogger(__name__)
_tracer = telemetry.tracer(__name__)
_total = metrics.quick_counter(
    "http_requests_total", "HTTP requests.", ("route", "method", "status")
)
_seconds = metrics.quick_histogram(
    "http_request_seconds", "Time to the end of an answer.", ("route",)
)
_in_flight = metrics.gauge("http_in_flight", "HTTP requests under way.")
_shed = metrics.counter("http_shed_total", "HTTP requests refused because of too many.")


class Front:
    """Wraps the applications behind it.

    Args:
        api: Answers `/v1` and `/v2`.
        pages: Answers everything else.
        most: Most requests under way at once.
    """

    def __init__(self, api: App, pages: App, most: int) -> None:
        self._api = api
        self._pages = pages
        self._most = most
        self._count = 0
        _in_flight.set_function(lambda: self._count)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})
            return
        if scope["type"] != "http":
            await self._pages(scope, receive, send)
            return
        given = header(scope, b"x-request-id").encode("latin-1")
        scope[REQUEST_ID] = given_request_id(given) or uuid7_str()
        began: float = scope.setdefault(BEGAN, time.monotonic())
        answer = _Answer(send, scope[REQUEST_ID])
        self._count += 1
        try:
            await self._in_span(scope, receive, answer)
        finally:
            self._count -= 1
            method = scope["method"] if scope["method"] in _METHODS else "OTHER"
            observe(scope.get(ROUTE, _UNROUTED), method, answer.status, began)

    def enter(self) -> bool:
        """Count a request that comes by a faster way; false when there are too many."""
        if self._count >= self._most:
            return False
        self._count += 1
        return True

    def leave(self, requests: int = 1) -> None:
        """The other end of `enter`."""
        self._count -= requests

    async def _in_span(self, scope: Scope, receive: Receive, answer: _Answer) -> None:
        carried = header(scope, b"traceparent")
        with _tracer.start_as_current_span(
            "http",
            context=telemetry.extract({"traceparent": carried}) if carried else None,
            kind=SpanKind.SERVER,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            await self._answer(scope, receive, answer)
            span.set_attribute("http.route", scope.get(ROUTE, _UNROUTED))
            span.set_attribute("http.response.status_code", answer.status)

    async def _answer(self, scope: Scope, receive: Receive, answer: _Answer) -> None:
        path = scope["path"]
        try:
            _check_size(scope)
            if self._count > self._most and path not in _ALWAYS:
                _shed.inc()
                raise Unavailable("OVERLOADED", "too many requests are under way")
            is_api = path.startswith(_API) and not path.startswith(_PROBES)
            await (self._api if is_api else self._pages)(scope, receive, answer)
        except DomainError as error:
            await answer.fail(error, v2=path.startswith(_V2))
        except Exception:
            _log.exception("request failed", extra={"route": scope.get(ROUTE, _UNROUTED)})
            await answer.fail(Internal("INTERNAL", "internal error"), v2=path.startswith(_V2))


def given_request_id(header: bytes) -> str:
    """The id that a caller gave its request; empty when there is none that could be one."""
    given = header.decode("latin-1")
    return given if given and _REQUEST_ID.fullmatch(given) else ""


def observe(route: str, method: str, status: int, began: float) -> None:
    """Count an answer that is out, by the monotonic time when its request came."""
    total, seconds = _series(route, method, status)
    total.inc()
    seconds.observe(time.monotonic() - began)


@functools.lru_cache(maxsize=4_096)
def _series(route: str, method: str, status: int) -> tuple[metrics.Count, metrics.Durations]:
    return _total.labels(route, method, str(status)), _seconds.labels(route)


def _check_size(scope: Scope) -> None:
    size = sum(len(name) + len(value) for name, value in scope["headers"])
    if size + len(scope["raw_path"]) + len(scope["query_string"]) > MOST_HEADER_BYTES:
        raise InvalidArgument(
            "HEADERS_TOO_LARGE", f"address and headers may have {MOST_HEADER_BYTES} bytes"
        )


class _Answer:
    """The sending side: notes the status, adds headers, and knows whether it is too late."""

    def __init__(self, send: Send, request_id: str) -> None:
        self.status = 0
        self._send = send
        self._request_id = request_id

    async def __call__(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [
                *message.get("headers", ()),
                (b"x-request-id", self._request_id.encode()),
                NOSNIFF,
            ]
        await self._send(message)

    async def fail(self, error: DomainError, *, v2: bool) -> None:
        """Answer with a problem, unless an answer has begun already."""
        if self.status == 0:
            await problem_reply(error, self._request_id, v2=v2).send(self)
