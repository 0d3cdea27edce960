"""Errors as RFC 9457 problem documents: the one place that knows HTTP status codes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import grpc
import orjson

from service_kit.errors import DomainError, InvalidArgument
from service_kit.grpc_status import code_of

_NUMBER = re.compile(r"(\d+)")
CONTENT_TYPE = "application/problem+json"

_STATUS: dict[grpc.StatusCode, int] = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.OUT_OF_RANGE: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ABORTED: 409,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.CANCELLED: 499,
    grpc.StatusCode.INTERNAL: 500,
    grpc.StatusCode.UNKNOWN: 500,
    grpc.StatusCode.DATA_LOSS: 500,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}
# HTTP tells more apart than gRPC does.
_STATUS_OF_REASON = {
    "BODY_TIMEOUT": 408,
    "BODY_TOO_LARGE": 413,
    "FEATURE_MISSING": 422,
    "HEADERS_TOO_LARGE": 431,
    "METHOD_NOT_ALLOWED": 405,
    "UNSUPPORTED_MEDIA_TYPE": 415,
}
_TITLES = {
    400: "Bad request",
    401: "Not authenticated",
    403: "Not allowed",
    404: "Not found",
    405: "Method not allowed",
    408: "Request timeout",
    409: "Conflict",
    413: "Body too large",
    415: "Unsupported media type",
    422: "Cannot be processed",
    429: "Too many requests",
    431: "Headers too large",
    499: "Cancelled",
    500: "Internal error",
    501: "Not offered",
    503: "Unavailable",
    504: "Deadline exceeded",
}


class Violations(InvalidArgument):
    """Several fields of one request are wrong.

    Args:
        found: The violations, at least one; they are told in the order of their paths, whichever
            part of the request was looked at first.
    """

    def __init__(self, found: Sequence[InvalidArgument]) -> None:
        self.found = tuple(sorted(found, key=_place))
        first = self.found[0]
        super().__init__(first.reason, first.message, field=first.field)


def _place(error: InvalidArgument) -> list[tuple[int, str]]:
    # `a[10]` comes after `a[9]`.
    parts = _NUMBER.split(error.field or "")
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def status_of(error: DomainError) -> int:
    """The HTTP status of an error."""
    return _STATUS_OF_REASON.get(error.reason) or _STATUS.get(code_of(error), 500)


def problem(error: DomainError, *, trace_id: str = "", request_id: str = "") -> dict[str, Any]:
    """An error as a problem document; it names fields and never their values."""
    status = status_of(error)
    document: dict[str, Any] = {
        "type": f"urn:modelyard:problem:{error.reason.lower().replace('_', '-')}",
        "title": _TITLES.get(status, "Error"),
        "status": status,
        "detail": error.message,
        "reason": error.reason,
        "violations": [_violation(each) for each in _violations(error)],
    }
    if error.metadata:
        document["metadata"] = dict(error.metadata)
    if trace_id:
        document["trace_id"] = trace_id
    if request_id:
        document["request_id"] = request_id
    return document


def encode_problem(error: DomainError, *, trace_id: str = "", request_id: str = "") -> bytes:
    """A problem document as JSON."""
    return orjson.dumps(problem(error, trace_id=trace_id, request_id=request_id))


def encode_v2_problem(error: DomainError, *, trace_id: str = "", request_id: str = "") -> bytes:
    """A problem document with the member `error`, as the Open Inference Protocol has it."""
    document = problem(error, trace_id=trace_id, request_id=request_id)
    fields = ", ".join(each["field"] for each in document["violations"])
    text = f"{error.reason}: {error.message}"
    return orjson.dumps({"error": f"{text} ({fields})" if fields else text, **document})


def problem_headers(error: DomainError) -> list[tuple[bytes, bytes]]:
    """The headers that go with a problem."""
    headers = [(b"content-type", CONTENT_TYPE.encode())]
    status = status_of(error)
    if status in (429, 503):
        headers.append((b"retry-after", _retry_after(error).encode()))
    if status == 401:
        headers.append((b"www-authenticate", b'Bearer realm="modelyard"'))
    if status == 405:
        headers.append((b"allow", error.metadata.get("allow", "").encode()))
    return headers


def _retry_after(error: DomainError) -> str:
    given = error.metadata.get("retry_after_s", "")
    return given if given.isdecimal() else "1"


def _violations(error: DomainError) -> Sequence[DomainError]:
    if isinstance(error, Violations):
        return error.found
    return (error,) if error.field else ()


def _violation(error: DomainError) -> dict[str, str]:
    return {
        "field": error.field or "",
        "reason": error.reason,
        "description": error.message,
    }
