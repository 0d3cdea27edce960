"""Errors of the domain: a reason a program can act on and a message a person can read.

Code below ``api.py`` raises these and knows nothing of transports; one server interceptor makes
``google.rpc.Status`` of them and one client function makes them again from a peer's status.
"""

# ruff: noqa: N818 - named for what happened, as gRPC and the AIPs name them
from __future__ import annotations


class DomainError(Exception):
    """A refusal or failure with a stable reason.

    Args:
        reason: UPPER_SNAKE name, unique within the suite, e.g. ``MODEL_NOT_FOUND``.
        message: One sentence for people; names fields, never echoes their values.
        field: The request field at fault, when there is one.
        metadata: Further facts, as strings, e.g. ``retry_after_s="3"``.
    """

    def __init__(
        self, reason: str, message: str, *, field: str | None = None, **metadata: str
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.field = field
        self.metadata: dict[str, str] = metadata

    def __str__(self) -> str:
        where = f" (field {self.field})" if self.field else ""
        return f"{self.reason}: {self.message}{where}"


class InvalidArgument(DomainError):
    """The request can never be right, whatever the state."""


class NotFound(DomainError):
    """The named resource does not exist, or the caller may not know of it."""


class AlreadyExists(DomainError):
    """A resource of that name exists."""


class FailedPrecondition(DomainError):
    """The state forbids it; something else must be done first."""


class Conflict(DomainError):
    """Somebody else changed the resource meanwhile; read again, then retry."""


class PermissionDenied(DomainError):
    """The caller is known and may not do this."""


class Unauthenticated(DomainError):
    """The caller is not known."""


class ResourceExhausted(DomainError):
    """A quota, a buffer or a budget is used up."""


class Unavailable(DomainError):
    """A dependency cannot be reached now; the same call may work later."""


class DeadlineExceeded(DomainError):
    """The time the caller gave ran out."""


class Unimplemented(DomainError):
    """Not offered by this build or this configuration."""


class Internal(DomainError):
    """A fault of the suite itself; the caller learns no more than the reason."""
