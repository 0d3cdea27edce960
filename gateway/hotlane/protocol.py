"""Uvicorn's HTTP protocol with a lane of its own for predictions.

A request whose head is in order is collected here and given to the lane. One that the lane
declines goes on as if this class did not exist: Uvicorn makes an ASGI cycle of it.
"""

from __future__ import annotations

import asyncio
import functools
import time
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from gateway.front import NOSNIFF
from gateway.hotlane.lane import Admitted, Form, HotLane, KnownHead
from gateway.http import BEGAN, PLAIN, Header, Reply

_STATUS = b"HTTP/1.1 200 OK\r\n"
_END = b"\r\n\r\n"


@functools.lru_cache(maxsize=64)
def _lines(headers: tuple[Header, ...]) -> bytes:
    return b"".join(b"%b: %b\r\n" % header for header in headers)


_LAST = _lines((NOSNIFF,))
_LAST_OF_ALL = _lines((NOSNIFF, (b"connection", b"close")))
_PLAIN_LINES = _lines(PLAIN)


class _NoEvent:
    """Stands where a cycle keeps the event that wakes its reader: nobody reads here."""

    def set(self) -> None:
        """Nothing waits."""


class HotCycle:
    """A request in the lane, with what Uvicorn asks of a cycle.

    Attributes:
        before: The cycle of the request before it on the connection, until the lane has this one.
        parts: The body as it came.
    """

    __slots__ = (
        *("admitted", "began", "before", "body", "disconnected", "form", "headers", "keep_alive"),
        *("parts", "protocol", "response_complete", "size", "url"),
    )
    message_event = _NoEvent()
    form: Form

    def __init__(
        self, protocol: HotLaneProtocol, admitted: Admitted, url: bytes, headers: list[Header]
    ) -> None:
        self.protocol = protocol
        self.admitted = admitted
        self.began = time.monotonic()
        self.headers = headers
        self.before: Any = None
        self.url = url
        self.parts: list[bytes] = []
        self.size = 0
        self.body = b""
        self.keep_alive = True
        self.disconnected = False
        self.response_complete = False

    def finish(self, reply: Reply | None, request_id: str) -> None:
        """Send the answer; without one, go the ordinary way."""
        if reply is None:
            self.protocol.start_over(self)
        else:
            headers = reply.headers
            lines = _PLAIN_LINES if headers is PLAIN else _lines(tuple(headers))
            self.protocol.write_reply(self, lines, reply.body, request_id)

    def answer(self, body: bytes, request_id: str) -> None:
        """Send an answer that is plain JSON."""
        self.protocol.write_reply(self, _PLAIN_LINES, body, request_id)


class HotLaneProtocol(HttpToolsProtocol):  # type: ignore[misc]
    """One connection.

    Args:
        lane: Takes the requests that it can.
        body_timeout: Seconds that the lane waits for the rest of a body.
    """

    def __init__(self, lane: HotLane, body_timeout: float, **given: Any) -> None:
        super().__init__(**given)
        self._lane = lane
        self._body_timeout = body_timeout
        self._hot: HotCycle | None = None
        self._parsed: HotCycle | None = None
        self._between = True
        self.url = b""
        self.headers: list[Header] = []
        self.expect_100_continue = False
        self._common: list[Header] = []
        self._common_lines = b""
        self._timer: asyncio.TimerHandle | None = None
        self._last_bytes = 0.0
        self.timeout_keep_alive_task: asyncio.TimerHandle | None = None

    def data_received(self, data: bytes) -> None:
        """Bytes came."""
        if self._between:
            self._begin(data)
        else:
            super().data_received(data)
        if self._hot is not None and self._timer is None:
            self._timer = self.loop.call_later(self._body_timeout, self._body_is_late)

    def _begin(self, data: bytes) -> None:
        """Take bytes with which a request begins."""
        end = data.find(_END) + len(_END)
        known = self._lane.recall(data[:end])
        if known is not None and len(data) == end + known.body and self._free():
            self._last_bytes = self.loop.time()
            hot = self.cycle = HotCycle(self, known.admitted, known.url, known.headers)
            hot.body = data[end:]
            if not self._lane.take(hot, hot.body):
                self.start_over(hot)
            return
        parsed = self._parse(data)
        if parsed is not None and self._between and len(data) == end + len(parsed.body):
            known = KnownHead(parsed.admitted, parsed.url, parsed.headers, len(parsed.body))
            self._lane.remember(data[:end], known)

    def _parse(self, data: bytes) -> HotCycle | None:
        """The last request in some bytes that the lane has taken."""
        self._parsed = None
        super().data_received(data)
        return self._parsed

    def connection_lost(self, exc: Exception | None) -> None:
        """The caller left; what is under way for it is answered to nobody."""
        self._collected()
        super().connection_lost(exc)
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
            self.timeout_keep_alive_task = None

    def on_message_begin(self) -> None:
        """A request begins: what the lane does not need of it is made when it leaves the lane."""
        self._between = False
        self.url = b""
        self.headers = []
        self.expect_100_continue = False

    def on_headers_complete(self) -> None:
        """The head is there: into the lane, or the ordinary way."""
        admitted = self._admit()
        if admitted is None:
            self.scope = self._new_scope(self.headers)
            super().on_headers_complete()
        else:
            hot = HotCycle(self, admitted, self.url, self.headers)
            hot.before = self.cycle
            self._hot = self.cycle = hot

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        hot = self._hot
        if hot is None:
            super().on_body(body)
            return
        hot.parts.append(body)
        hot.size += len(body)
        if hot.size > hot.admitted.target.route.most_bytes:
            self._leave_lane(hot)

    def on_message_complete(self) -> None:
        """The body is there."""
        self._between = True
        hot = self._collected()
        if hot is None:
            super().on_message_complete()
            return
        hot.body = hot.parts[0] if len(hot.parts) == 1 else b"".join(hot.parts)
        if self._lane.take(hot, hot.body):
            hot.before = None
            self._parsed = hot
        else:
            self._leave_lane(hot)
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """An answer is out."""
        if self.pipeline or self.timeout_keep_alive_task is None:
            super().on_response_complete()
            return
        # The timer that runs is left alone, and looks at its end how long nothing has come.
        self.server_state.total_requests += 1
        if not self.transport.is_closing():
            self.flow.resume_reading()

    def _unset_keepalive_if_required(self) -> None:
        self._last_bytes = self.loop.time()

    def timeout_keep_alive_handler(self) -> None:
        """Hang up when nothing has come for long enough and nothing is under way."""
        self.timeout_keep_alive_task = None
        idle = self.loop.time() - self._last_bytes
        busy = self.cycle is not None and not self.cycle.response_complete
        if not busy and idle >= self.timeout_keep_alive:
            super().timeout_keep_alive_handler()
        elif self.parser is not None:
            left = self.timeout_keep_alive - (0.0 if busy else idle)
            self.timeout_keep_alive_task = self.loop.call_later(
                left, self.timeout_keep_alive_handler
            )

    def write_reply(self, hot: HotCycle, lines: bytes, body: bytes, request_id: str) -> None:
        """Send an answer of the lane.

        Args:
            lines: Its own headers.
        """
        hot.response_complete = True
        if self.transport.is_closing():
            return
        common = self.server_state.default_headers
        if common is not self._common:
            self._common, self._common_lines = common, _lines(tuple(common))
        self.transport.write(
            b"%b%b%bcontent-length: %d\r\nx-request-id: %b\r\n%b\r\n%b"
            % (
                _STATUS,
                self._common_lines,
                lines,
                len(body),
                request_id.encode(),
                _LAST if hot.keep_alive else _LAST_OF_ALL,
                body,
            )
        )
        if not hot.keep_alive:
            self.transport.close()
        self.on_response_complete()

    def start_over(self, hot: HotCycle) -> None:
        """Have a request answered the ordinary way after all."""
        if self.transport.is_closing():
            hot.response_complete = True
            return
        path = hot.url.decode("ascii")
        scope = self._new_scope(list(hot.headers))
        scope |= {"method": "POST", "path": path, "raw_path": hot.url, "query_string": b""}
        scope[BEGAN] = hot.began
        cycle = RequestResponseCycle(
            scope=scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=self.access_log,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=False,
            keep_alive=hot.keep_alive,
            on_response=self.on_response_complete,
        )
        cycle.body = bytearray(hot.body)
        cycle.more_body = False
        cycle.message_event.set()
        if self.cycle is hot:  # otherwise a pipelined request waits behind it
            self.cycle = cycle
        self._start_asgi_task(cycle, self.app)

    def _new_scope(self, headers: list[Header]) -> Any:
        # As Uvicorn begins one; a request that is being read meanwhile stays as it is.
        kept = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.headers, self.expect_100_continue = kept
        return self.scope | {"headers": headers}

    def _admit(self) -> Admitted | None:
        if self.parser.get_method() != b"POST":
            return None
        if not self._free():
            return None
        if self.parser.get_http_version() != "1.1" or not self.parser.should_keep_alive():
            return None
        return self._lane.admit(self.url, self.headers)

    def _free(self) -> bool:
        """Whether nothing is before a request that begins."""
        cycle = self.cycle
        return (cycle is None or cycle.response_complete) and not self.flow.write_paused

    def _collected(self) -> HotCycle | None:
        hot, self._hot = self._hot, None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return hot

    def _body_is_late(self) -> None:
        hot = self._collected()
        if hot is not None and self.parser is not None:
            self._leave_lane(hot)

    def _leave_lane(self, hot: HotCycle) -> None:
        self._collected()
        self.cycle = hot.before
        self.scope = self._new_scope(self.headers)
        self.scope[BEGAN] = hot.began
        super().on_headers_complete()
        for part in hot.parts:
            super().on_body(part)
