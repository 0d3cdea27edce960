"""Built-in data checks, as plugins of the group `modelyard.validators`.

A validator looks at one table of rows and says in words what is wrong with it; an empty list
means that nothing is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from training_svc.domain.encoding import as_text


class Rows(Protocol):
    """A table as a validator sees it."""

    @property
    def row_count(self) -> int: ...
    def column(self, name: str) -> NDArray[Any]:
        """Values of a column; missing ones are NaN, None or the empty string."""
        ...


class _Config(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Validator:
    """What all validators have in common."""

    api_version: ClassVar[int] = 1
    capabilities: ClassVar[frozenset[str]] = frozenset()

    def check(self, rows: Rows, column: str) -> list[str]:
        """Says what is wrong."""
        raise NotImplementedError


class RowCount(Validator):
    """There are neither too few rows nor too many."""

    class Config(_Config):
        """Settings."""

        min: int = Field(default=1, ge=0)
        max: int | None = None

    def __init__(self, config: Config) -> None:
        self._config = config

    def check(self, rows: Rows, column: str) -> list[str]:  # noqa: ARG002
        """Says what is wrong."""
        low, high = self._config.min, self._config.max
        if rows.row_count < low:
            return [f"{rows.row_count} rows, at least {low} are needed"]
        if high is not None and rows.row_count > high:
            return [f"{rows.row_count} rows, at most {high} are expected"]
        return []


class NullShare(Validator):
    """Not too many values of a column are missing."""

    class Config(_Config):
        """Settings."""

        max: float = Field(default=0.0, ge=0, le=1)

    def __init__(self, config: Config) -> None:
        self._config = config

    def check(self, rows: Rows, column: str) -> list[str]:
        """Says what is wrong."""
        missing = is_missing(rows.column(column))
        share = float(missing.mean()) if len(missing) else 0.0
        if share <= self._config.max:
            return []
        return [f"{share:.1%} of {column} is missing, at most {self._config.max:.1%} may be"]


class ValueRange(Validator):
    """The values of a column lie in a range."""

    class Config(_Config):
        """Settings; `max_share` of the values may lie outside."""

        min: float | None = None
        max: float | None = None
        max_share: float = Field(default=0.0, ge=0, le=1)

    def __init__(self, config: Config) -> None:
        self._config = config

    def check(self, rows: Rows, column: str) -> list[str]:
        """Says what is wrong."""
        values = as_numbers(rows.column(column))
        if values is None:
            return [f"{column} is not numeric"]
        values = values[~np.isnan(values)]
        low = -np.inf if self._config.min is None else self._config.min
        high = np.inf if self._config.max is None else self._config.max
        outside = float(np.mean((values < low) | (values > high))) if len(values) else 0.0
        if outside <= self._config.max_share:
            return []
        return [f"{outside:.2%} of {column} lies outside [{low:g}, {high:g}]"]


class LabelRatio(Validator):
    """The share of positive labels is plausible."""

    class Config(_Config):
        """Settings."""

        min: float = Field(default=0.0, ge=0, le=1)
        max: float = Field(default=1.0, ge=0, le=1)

    def __init__(self, config: Config) -> None:
        self._config = config

    def check(self, rows: Rows, column: str) -> list[str]:
        """Says what is wrong."""
        values = as_numbers(rows.column(column))
        if values is None:
            return [f"{column} is not numeric"]
        values = values[~np.isnan(values)]
        if not len(values):
            return [f"{column} has no values"]
        share, low, high = float(np.mean(values > 0)), self._config.min, self._config.max
        if low <= share <= high:
            return []
        return [f"{share:.2%} of {column} is positive, expected {low:.2%} to {high:.2%}"]


class Categories(Validator):
    """A column holds known categories only; missing values are no category."""

    example_config: ClassVar[Mapping[str, Any]] = {"allowed": ["EWR", "JFK"]}

    class Config(_Config):
        """Settings."""

        allowed: list[str]

    def __init__(self, config: Config) -> None:
        self._config = config

    def check(self, rows: Rows, column: str) -> list[str]:
        """Says what is wrong."""
        unknown = set(np.unique(as_text(rows.column(column)))) - {"", *self._config.allowed}
        return [f"{column} holds {len(unknown)} unknown categories"] if unknown else []


def is_missing(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Marks NaN, NaT, None and the empty string."""
    if values.dtype.kind == "M":
        return np.asarray(np.isnat(values), bool)
    if np.issubdtype(values.dtype, np.number):
        return np.asarray(np.isnan(values.astype(float)), bool)
    return np.array([value is None or value == "" or value != value for value in values], bool)


def as_numbers(values: NDArray[Any]) -> NDArray[np.float64] | None:
    """Values as float64 with NaN where one is missing; None when they are no numbers."""
    try:
        return np.asarray(values.astype(np.float64))
    except (TypeError, ValueError):
        return None
