"""What is asked of the data plane and what it answers, whatever protocol it came by."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from gateway.dataplane.features import FeatureColumns
from gateway.dataplane.id_block import IdBlock
from gateway.dataplane.inputs import Columns, Where, instance_path
from gateway.dataplane.routing import Route, Variant

T = TypeVar("T")

#: Rows of one request.
MOST_ROWS = 1024
#: The fallback of a model's answer to features that were read before.
REMEMBERED = "remembered_features"


@dataclass(slots=True)
class Ask:
    """A request for predictions.

    Attributes:
        endpoint: Id of the endpoint.
        instances: One object a row; empty objects when `matrix` is given.
        event_times_us: When the things predicted about happen; now when absent.
        version: Version or variant that must answer; the traffic table decides when empty.
        matrix: Inputs that the caller encoded already: float32, little-endian, row-major.
        ids: Prediction ids, one a row; new ones when absent.
        return_features: Whether the inputs go back with the answer.
        unit: What the traffic split sticks to in all rows, when the caller names it beside them.
        where: How fields are named in refusals.
        where_time: How a row's event time is.
        time_limit: Seconds that the caller gives at most.
        began: Monotonic time of arrival.
    """

    endpoint: str
    instances: Sequence[Mapping[str, Any]]
    event_times_us: Sequence[int] | None = None
    version: str = ""
    matrix: bytes | None = None
    ids: Sequence[str] | None = None
    return_features: bool = False
    unit: str = ""
    where: Where = instance_path
    where_time: Callable[[int], str] = "event_times[{}]".format
    time_limit: float = 30.0
    began: float = field(default_factory=time.monotonic)


@dataclass(slots=True)
class Prepared:
    """The inputs of one variant for some rows of a request.

    Attributes:
        columns: What the model sees, before encoding, and the entity keys; empty when it is all
            in `instances`, or the caller encoded the matrix.
        instances: What the caller gave, when that is all that the model sees.
        values: The numbers in them, row-major, as the caller gave them.
        times_us: When looked-up values became known, by field.
        features: All that the store gave.
        remembered: Whether that was read before, as the store does not answer now.
    """

    columns: Columns
    matrix: bytes
    times_us: dict[str, list[int]] = field(default_factory=dict)
    feature_service: str = ""
    features: FeatureColumns | None = None
    instances: Sequence[Mapping[str, Any]] = ()
    values: Sequence[float] = ()
    remembered: bool = False

    @property
    def fallback(self) -> str:
        """What stands in for inputs of now."""
        return REMEMBERED if self.remembered else ""


@dataclass(slots=True)
class Scored:
    """The answer for some rows of a request.

    Attributes:
        rows: Places of the rows in the request.
        assigned: Variant that the traffic table gave them.
        served: Variant that answered; nothing when the default or an earlier answer stands in.
        outputs: One tuple a row.
        latency_us: Time of the model call that succeeded.
        failed: Variants that failed before.
        cached: Which rows were answered before, one a row; empty where no answers are kept.
    """

    rows: list[int]
    assigned: Variant
    served: Variant | None
    fallback: str
    outputs: list[tuple[float, ...]]
    prepared: Prepared | None
    latency_us: int = 0
    failed: tuple[Variant, ...] = ()
    cached: Sequence[bool] = ()

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the outputs."""
        return (self.served or self.assigned).plan.outputs


@dataclass(slots=True)
class Answer:
    """What the data plane answers, in the groups that it worked in.

    Attributes:
        ids: Prediction ids, one a row.
        units: What the traffic was split by, one a row; `ids` itself when it was by them.
    """

    route: Route
    ids: list[str]
    units: list[str]
    event_times_us: list[int]
    scored: list[Scored]

    def places(self) -> list[tuple[Scored, int]]:
        """For each row, in the order of the request, its group and its place in it."""
        found: list[Any] = [None] * len(self.ids)
        for group in self.scored:
            for at, row in enumerate(group.rows):
                found[row] = group, at
        return found

    def by_row(self, of_group: Callable[[Scored], Sequence[T]]) -> list[T]:
        """What each group has one of a row, in the order of the request."""
        found: list[Any] = [None] * len(self.ids)
        for group in self.scored:
            for row, value in zip(group.rows, of_group(group), strict=True):
                found[row] = value
        return found


@dataclass(slots=True)
class LoneRows:
    """Requests for one row each, which one version has answered together.

    Attributes:
        units: What the traffic was split by; `ids` itself when it was by them.
        scores: First output of each row.
        seconds: From arrival to answer, one a request.
        prepared: The inputs of all rows.
    """

    route: Route
    variant: Variant
    ids: list[str]
    units: list[str]
    event_times_us: list[int]
    scores: list[float]
    seconds: list[float]
    prepared: Prepared


@dataclass(slots=True)
class BlockAnswer:
    """What one variant answers to a request for a matrix of rows.

    Attributes:
        event_time_us: When what is predicted about happens, whichever row.
        began: Monotonic time of arrival.
        matrix: The inputs: float32, little-endian, row-major.
        outputs: `count` x outputs; empty until they are there.
    """

    route: Route
    variant: Variant
    ids: IdBlock
    count: int
    event_time_us: int
    began: float
    matrix: bytes
    outputs: npt.NDArray[np.float64]


def rows_of(values: Sequence[T], rows: Sequence[int]) -> Sequence[T]:
    """Some rows of what a request has one of a row: as it is when they are all."""
    return values if len(rows) == len(values) else [values[row] for row in rows]
