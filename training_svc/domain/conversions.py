"""Conversions of model files that were trained elsewhere, as immutable values."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

from service_kit.errors import InvalidArgument
from training_svc.domain.parity import Parity
from training_svc.domain.pipelines import ConversionSpec
from training_svc.domain.rules import check_conversion

CONVERTIBLE = ("lightgbm", "onnx", "skops", "xgboost")
"""Formats that are read without running code that a file brings along."""
MAX_OUTPUTS = 1_000
_ARTIFACT = re.compile(r"artifacts/[0-9a-f]{64}")


class ConversionState(StrEnum):
    """Life of a conversion."""

    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    REFUSED = "REFUSED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    @property
    def ended(self) -> bool:
        """Whether nothing more happens in this state."""
        return self not in (ConversionState.QUEUED, ConversionState.RUNNING)


@dataclass(frozen=True, slots=True)
class Conversion:
    """A model file that is to be made into the form that serves best.

    Attributes:
        source: The file, `artifacts/{sha256}`.
        format: Its format.
        sample: Rows that the files are compared on, `artifacts/{sha256}`.
        outputs: Outputs of the model for a row.
        runtime: Plugin that loads the file that may serve; empty before there is one.
        artifacts: Role, file name, artifact and format of each file of a version.
        parity_reports: As the registry takes them.
        inputs: Names of the model's inputs, in order.
    """

    id: str
    source: str
    format: str
    sample: str
    create_time: datetime
    spec: ConversionSpec = field(default_factory=ConversionSpec)
    outputs: int = 1
    state: ConversionState = ConversionState.QUEUED
    reason: str = ""
    runtime: str = ""
    artifacts: tuple[tuple[str, str, str, str], ...] = ()
    parity_reports: tuple[Mapping[str, Any], ...] = ()
    inputs: tuple[str, ...] = ()
    end_time: datetime | None = None

    @property
    def name(self) -> str:
        """Resource name."""
        return f"conversions/{self.id}"


def check_wanted(wanted: Conversion) -> None:
    """Refuses a conversion that could not be carried out.

    Raises:
        InvalidArgument: Names the field at fault.
    """
    for name, artifact in (("source", wanted.source), ("sample", wanted.sample)):
        if _ARTIFACT.fullmatch(artifact) is None:
            raise InvalidArgument(
                "INVALID_NAME", "must have the form artifacts/{sha256}", field=f"conversion.{name}"
            )
    if wanted.format not in CONVERTIBLE:
        raise InvalidArgument(
            "FORMAT_NOT_CONVERTIBLE",
            f"must be one of {', '.join(CONVERTIBLE)}; pickled models are never read",
            field="conversion.format",
        )
    if not 1 <= wanted.outputs <= MAX_OUTPUTS:
        raise InvalidArgument(
            "OUT_OF_RANGE", f"must be from 1 to {MAX_OUTPUTS}", field="conversion.output_count"
        )
    check_conversion(wanted.spec, "conversion.spec")


def said_of(parities: Iterable[Parity]) -> str:
    """What to say of the comparisons that a conversion has made."""
    return "; ".join(
        f"{each.method}: {each.reason}" if each.passed else f"no {each.method}: {each.reason}"
        for each in parities
    )


def ended(conversion: Conversion, state: ConversionState, reason: str, now: datetime) -> Conversion:
    """A conversion that has come to its end."""
    return replace(conversion, state=state, reason=reason, end_time=now)
