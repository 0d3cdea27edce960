"""Batch predictions: what may be asked for, and where one stands."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from service_kit.errors import FailedPrecondition, InvalidArgument
from service_kit.names import parse_name

_PREFIX = "batch_prediction."


class BatchState(StrEnum):
    """Where a batch prediction stands."""

    QUEUED = "QUEUED"
    PREPARING = "PREPARING"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


ENDED = frozenset({BatchState.SUCCEEDED, BatchState.FAILED, BatchState.CANCELLED})


class Features(StrEnum):
    """Where looked-up features come from."""

    UNSPECIFIED = "UNSPECIFIED"
    ONLINE = "ONLINE"
    POINT_IN_TIME = "POINT_IN_TIME"
    GIVEN = "GIVEN"


class Format(StrEnum):
    """Format of a stored file."""

    UNSPECIFIED = "UNSPECIFIED"
    PARQUET = "PARQUET"
    CSV = "CSV"


@dataclass(frozen=True, slots=True)
class Batch:
    """The scoring of a set of rows with one version.

    Attributes:
        source: `snapshots/{sha256}` or `artifacts/{sha256}`.
        format: Of a stored file.
        row_key: Column that names a row in the output, or empty.
        rows: Rows of the input; 0 until it is read.
        done: Rows done, the refused ones among them.
        refused: Rows that could not be scored.
        output: `artifacts/{sha256}` once it is there.
        errors: `artifacts/{sha256}` of the refused rows, or empty.
    """

    batch_id: str
    endpoint_id: str
    model_version: str
    source: str
    created: datetime
    format: Format = Format.UNSPECIFIED
    features: Features = Features.UNSPECIFIED
    row_key: str = ""
    creator: str = ""
    state: BatchState = BatchState.QUEUED
    rows: int = 0
    done: int = 0
    refused: int = 0
    output: str = ""
    errors: str = ""
    reason: str = ""
    ended: datetime | None = None

    @property
    def name(self) -> str:
        """`batchPredictions/{batch_prediction}`."""
        return f"batchPredictions/{self.batch_id}"

    @property
    def of_snapshot(self) -> bool:
        """Whether the rows are those of a snapshot."""
        return self.source.startswith("snapshots/")


@dataclass(frozen=True, slots=True)
class Progress:
    """How much of a batch is done, in rows."""

    done: int
    refused: int


def check_input(batch: Batch) -> None:
    """Raises InvalidArgument for an input that nobody can read."""
    if not batch.source:
        raise _wrong("INPUT_MISSING", "name a snapshot or a stored file", "snapshot")
    if batch.of_snapshot:
        parse_name("snapshots/{snapshot}", batch.source, field=f"{_PREFIX}snapshot")
        if batch.format is not Format.UNSPECIFIED:
            raise _wrong("FORMAT_NOT_WANTED", "a snapshot has a format of its own", "format")
        return
    parse_name("artifacts/{artifact}", batch.source, field=f"{_PREFIX}artifact")
    if batch.format is Format.UNSPECIFIED:
        raise _wrong("FORMAT_MISSING", "a stored file needs its format", "format")
    if batch.features is Features.POINT_IN_TIME:
        raise _wrong(
            "POINT_IN_TIME_NEEDS_SNAPSHOT",
            "only the rows of a snapshot have a time that the history can be joined at",
            "features",
        )


def features_of(asked: Features, feature_service: str) -> Features:
    """Where features come from for a model that looks them up, or does not."""
    if not feature_service:
        return Features.GIVEN
    return Features.ONLINE if asked is Features.UNSPECIFIED else asked


def check_row_key(row_key: str, outputs: tuple[str, ...]) -> None:
    """Raises InvalidArgument (`ROW_KEY_TAKEN`) for a name that the output uses itself."""
    if row_key in {"row", "error", "field", "reason", *outputs}:
        raise _wrong("ROW_KEY_TAKEN", "the output has a column of that name", "row_key")


def refuse_ended(batch: Batch) -> None:
    """Raises FailedPrecondition (`BATCH_PREDICTION_ENDED`)."""
    if batch.state in ENDED:
        raise FailedPrecondition("BATCH_PREDICTION_ENDED", "the batch prediction has ended")


def _wrong(reason: str, message: str, field: str) -> InvalidArgument:
    return InvalidArgument(reason, message, field=_PREFIX + field)
