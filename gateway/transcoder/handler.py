"""Answers a REST route by calling the gRPC method behind it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import orjson

from gateway.http import (
    LONGEST_DEADLINE_S,
    NDJSON,
    REQUEST_ID,
    Exchange,
    Reply,
    require_json,
)
from gateway.problems import problem
from gateway.settings import GatewaySettings
from gateway.transcoder.codec import codec_of
from gateway.transcoder.contracts import Binding, Method
from gateway.transcoder.lines import json_lines
from gateway.transcoder.requests import apply_idempotency_key, build_request, parse_json
from gateway.upstreams import Upstreams
from service_kit import telemetry
from service_kit.errors import DomainError, Internal, InvalidArgument

_log = logging.getLogger(__name__)


class TranscodedRoute:
    """One HTTP rule of one method."""

    def __init__(
        self, method: Method, binding: Binding, upstreams: Upstreams, settings: GatewaySettings
    ) -> None:
        self.label = binding.path
        self.scope = method.scope
        self._method = method
        self._binding = binding
        self._upstreams = upstreams
        self._settings = settings
        self._response = codec_of(method.output)

    async def handle(self, exchange: Exchange) -> Reply:
        """Answer; a stream of answers comes as one JSON object a line."""
        if self._method.client_streaming:
            return await self._upload(exchange)
        request = await self._request(exchange)
        if self._method.server_streaming:
            return await self._stream(exchange, request)
        timeout = exchange.time_limit()
        answer = await self._upstreams.unary(self._method, request, exchange.caller, timeout)
        return Reply(orjson.dumps(self._response.encode(answer)))

    async def _request(self, exchange: Exchange) -> Any:
        body = await exchange.body(self._settings.max_body_bytes)
        if body:
            require_json(exchange)
        return build_request(
            self._method,
            self._binding,
            exchange.values,
            exchange.query(),
            body,
            exchange.header(b"idempotency-key"),
        )

    async def _stream(self, exchange: Exchange, request: Any) -> Reply:
        timeout = exchange.time_limit(LONGEST_DEADLINE_S)
        answers = self._upstreams.stream(self._method, request, exchange.caller, timeout)
        # The first message before the headers, so that an error at once is a proper problem.
        first = await anext(answers, None)
        request_id = exchange.asgi[REQUEST_ID]
        return Reply(headers=(NDJSON,), parts=self._lines(first, answers, request_id))

    async def _lines(
        self, first: Any, answers: AsyncIterator[Any], request_id: str
    ) -> AsyncGenerator[bytes, None]:
        if first is None:
            return
        try:
            yield self._line(first)
            async for answer in answers:
                yield self._line(answer)
        except DomainError as error:
            yield _error_line(error, request_id)
        except Exception:
            _log.exception("stream failed", extra={"route": self.label})
            yield _error_line(Internal("INTERNAL", "internal error"), request_id)

    def _line(self, answer: Any) -> bytes:
        return orjson.dumps(self._response.encode(answer), option=orjson.OPT_APPEND_NEWLINE)

    async def _upload(self, exchange: Exchange) -> Reply:
        require_json(exchange, "application/x-ndjson", "application/ndjson")
        if exchange.query():
            raise InvalidArgument("UNKNOWN_PARAMETER", "takes no query parameters", field="?")
        timeout = exchange.time_limit(LONGEST_DEADLINE_S)
        messages = _Messages(self._method, exchange, self._settings.max_upload_bytes)
        try:
            answer = await self._upstreams.unary(self._method, messages, exchange.caller, timeout)
        except (DomainError, asyncio.CancelledError) as error:
            # What was wrong with a line says more than the call that broke off because of it.
            raise messages.failure or error from error
        if messages.failure is not None:
            raise messages.failure
        return Reply(orjson.dumps(self._response.encode(answer)))


class _Messages:
    """The request messages of an upload, made line by line while it comes in."""

    def __init__(self, method: Method, exchange: Exchange, limit: int) -> None:
        self.failure: DomainError | None = None
        self._method = method
        self._codec = codec_of(method.input)
        self._key = exchange.header(b"idempotency-key")
        self._values = exchange.values
        exchange.check_length(limit)
        self._lines = json_lines(exchange.chunks(limit))

    def __aiter__(self) -> AsyncIterator[Any]:
        return self._iterate()

    async def _iterate(self) -> AsyncIterator[Any]:
        number = 0
        try:
            async for line in self._lines:
                yield self._message(line, number)
                number += 1
        except DomainError as error:
            self.failure = error
            raise

    def _message(self, line: bytes, number: int) -> Any:
        message = self._method.request_class()
        self._codec.fill(message, parse_json(line), f"lines[{number}]")
        for name, value in self._values.items():
            setattr(message, name, value)
        if number == 0:
            apply_idempotency_key(message, self._key)
        return message


def _error_line(error: DomainError, request_id: str) -> bytes:
    trace_id, _ = telemetry.trace_ids()
    document = {"error": problem(error, trace_id=trace_id, request_id=request_id)}
    return orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE)
