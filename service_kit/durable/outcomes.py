"""Errors of steps and workflows as JSON, so that they come back typed after a restart."""

from __future__ import annotations

from typing import Any

from service_kit import errors
from service_kit.errors import DomainError

Json = dict[str, Any]


class StepFailed(DomainError):  # noqa: N818
    """A step raised something that is no domain error; the log has what it was."""


def failure(error: DomainError) -> Json:
    """What is recorded of an error."""
    return {
        "kind": type(error).__name__,
        "reason": error.reason,
        "message": error.message,
        "field": error.field,
        "metadata": error.metadata,
    }


def error_from(recorded: Json) -> DomainError:
    """The error that was recorded, as an instance of the class it had."""
    kind = getattr(errors, str(recorded["kind"]), StepFailed)
    error: DomainError = kind(recorded["reason"], recorded["message"], field=recorded["field"])
    error.metadata.update(recorded["metadata"])
    return error


class WorkflowFailed(Exception):  # noqa: N818
    """Carries a domain error out of a workflow in the form that is recorded: code and data."""

    def __init__(self, error: DomainError) -> None:
        super().__init__(error.message)
        self.code = error.reason
        self.data = failure(error)
