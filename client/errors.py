"""Errors that the SDK raises."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


class ModelyardError(Exception):
    """Anything that went wrong between the SDK and the suite."""


class ConversionRefused(ModelyardError):  # noqa: N818 - named for what happened
    """A model file was not registered, for it could not be made into a form that answers alike.

    Attributes:
        conversion: The conversion, with its `parity_reports`.
    """

    def __init__(self, conversion: dict[str, Any]) -> None:
        super().__init__(f"{conversion['name']} has {conversion['state']}: {conversion['reason']}")
        self.conversion = conversion


@dataclass(frozen=True)
class Violation:
    """One field of a request that was refused, and why."""

    field: str
    description: str


class ProblemError(ModelyardError):
    """The gateway answered with a problem (RFC 9457).

    Attributes:
        status: HTTP status code.
        reason: Machine-readable reason, upper snake case.
        violations: Fields that were refused.
    """

    def __init__(
        self, status: int, reason: str, detail: str, violations: tuple[Violation, ...] = ()
    ) -> None:
        fields = "".join(f"\n  {each.field}: {each.description}" for each in violations)
        super().__init__(f"{status} {reason}: {detail}{fields}")
        self.status = status
        self.reason = reason
        self.detail = detail
        self.violations = violations

    @classmethod
    def from_body(cls, status: int, body: Any) -> ProblemError:
        """Makes the error from the body of an answer, whatever that is."""
        if not isinstance(body, dict):
            return cls(status, "UNKNOWN", "the answer was no problem document")
        listed = body.get("violations") or []
        violations = tuple(
            Violation(str(each.get("field", "")), str(each.get("description", "")))
            for each in listed
        )
        detail = str(body.get("detail") or body.get("title") or "")
        return cls(status, str(body.get("reason", "UNKNOWN")), detail, violations)
