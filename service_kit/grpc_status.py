"""Domain errors as ``google.rpc.Status`` and back (AIP-193)."""

from __future__ import annotations

from typing import Any, NamedTuple

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

from service_kit import errors

#: Domain of the reasons in ``google.rpc.ErrorInfo``.
ERROR_DOMAIN = "modelyard"

_DETAILS_KEY = "grpc-status-details-bin"
# A peer drops a response whose headers pass 8 KiB, and the status travels in them.
_LONGEST_MESSAGE = 1_000
_LONGEST_VALUE = 256
_MOST_METADATA = 16

_CODES: dict[type[errors.DomainError], grpc.StatusCode] = {
    errors.InvalidArgument: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.AlreadyExists: grpc.StatusCode.ALREADY_EXISTS,
    errors.FailedPrecondition: grpc.StatusCode.FAILED_PRECONDITION,
    errors.Conflict: grpc.StatusCode.ABORTED,
    errors.PermissionDenied: grpc.StatusCode.PERMISSION_DENIED,
    errors.Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    errors.ResourceExhausted: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
    errors.DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.Unimplemented: grpc.StatusCode.UNIMPLEMENTED,
    errors.Internal: grpc.StatusCode.INTERNAL,
}
_CLASSES = {code: kind for kind, code in _CODES.items()} | {
    grpc.StatusCode.OUT_OF_RANGE: errors.InvalidArgument,
}
_BY_NUMBER: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}


class AbortStatus(NamedTuple):
    """What ``context.abort_with_status`` wants (the form of ``grpc.Status``)."""

    code: grpc.StatusCode
    details: str
    trailing_metadata: tuple[tuple[str, bytes], ...]


def code_of(error: errors.DomainError) -> grpc.StatusCode:
    """The gRPC code of a domain error; a class of a service's own has that of its base."""
    for kind in type(error).__mro__:
        if kind in _CODES:
            return _CODES[kind]
    return grpc.StatusCode.INTERNAL


def to_status(error: errors.DomainError) -> status_pb2.Status:
    """A domain error as a status with ``ErrorInfo`` and, when it names a field, ``BadRequest``."""
    message = error.message[:_LONGEST_MESSAGE]
    facts = list(error.metadata.items())[:_MOST_METADATA]
    details = [
        _packed(
            error_details_pb2.ErrorInfo(
                reason=error.reason,
                domain=ERROR_DOMAIN,
                metadata={key: value[:_LONGEST_VALUE] for key, value in facts},
            )
        )
    ]
    if error.field:
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=error.field[:_LONGEST_VALUE], description=message, reason=error.reason
        )
        details.append(_packed(error_details_pb2.BadRequest(field_violations=[violation])))
    return status_pb2.Status(code=code_of(error).value[0], message=message, details=details)


def from_status(status: status_pb2.Status) -> errors.DomainError:
    """The domain error that :func:`to_status` made a status of."""
    info = error_details_pb2.ErrorInfo()
    bad = error_details_pb2.BadRequest()
    for detail in status.details:
        if not detail.Unpack(info):
            detail.Unpack(bad)
    code = _BY_NUMBER.get(status.code, grpc.StatusCode.UNKNOWN)
    field = bad.field_violations[0].field if bad.field_violations else None
    error = _CLASSES.get(code, errors.Internal)(
        info.reason or code.name, status.message, field=field
    )
    error.metadata.update(info.metadata)
    return error


def abort_status(error: errors.DomainError) -> AbortStatus:
    """The argument of ``context.abort_with_status``, for sync and asyncio servicers alike."""
    status = to_status(error)
    return AbortStatus(
        code=code_of(error),
        details=status.message,
        trailing_metadata=((_DETAILS_KEY, status.SerializeToString()),),
    )


def error_from_rpc(error: grpc.RpcError, peer: str = "") -> errors.DomainError:
    """A failed call as a domain error, with the rich details when the peer sent them.

    Args:
        error: What a sync or an asyncio stub raised.
        peer: Area that was called, for the metadata and messages of errors without details.
    """
    for key, value in _trailing_metadata(error):
        if key == _DETAILS_KEY:
            status = status_pb2.Status()
            status.ParseFromString(value)
            return from_status(status)
    code = error.code() if isinstance(error, grpc.Call | grpc.aio.AioRpcError) else None
    return _plain_error(code or grpc.StatusCode.UNKNOWN, peer or "peer")


def _plain_error(code: grpc.StatusCode, peer: str) -> errors.DomainError:
    # The text of such a status is the transport's (addresses, library words): not for callers.
    if code is grpc.StatusCode.UNAVAILABLE:
        return errors.Unavailable("PEER_UNAVAILABLE", f"{peer} cannot be reached", peer=peer)
    if code in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED):
        return errors.DeadlineExceeded(
            "DEADLINE_EXCEEDED", f"{peer} did not answer in time", peer=peer
        )
    kind = _CLASSES.get(code, errors.Internal)
    return kind(f"PEER_{code.name}", f"{peer} could not do this", peer=peer)


def _trailing_metadata(error: grpc.RpcError) -> list[tuple[str, bytes]]:
    read: Any = getattr(error, "trailing_metadata", None)
    return list(read() or ()) if callable(read) else []


def _packed(message: Any) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed
