"""Rows that wait to be logged, in columns from the start.

What is spread over many small objects costs several times more to collect later, when the
processor's caches have forgotten it, than to put in its place at once.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from gateway.dataplane.ask import BlockAnswer, Prepared
from gateway.dataplane.routing import Route, Variant

MOST_LATENCY_US = 2**32 - 1


class PredictionRows:
    """Predictions that one version made by one table in one role, whose inputs are kept alike.

    Attributes:
        ids: The predictions' ids, one after the other, of `service_kit.ids.LENGTH` characters each.
        units: What the traffic was split by; empty when that was the predictions' ids.
        fallbacks: First row, number of rows, and which fallback answered them.
        model_latencies_us: Time that the replica took; empty when nobody asks for it.
        cached: Whether answers were kept ones; empty where none are kept.
        failures: Why a shadow did not score; then there are neither scores nor inputs.
        seen: Inputs as the model saw them: float32, little-endian, row-major.
        given: Inputs as the caller gave them, when all are numbers: row-major.
        prepared: Inputs of any kind, with their number of rows.
    """

    __slots__ = (
        *("cached", "event_times_us", "failures", "fallbacks", "given", "ids", "latencies_us"),
        *("model_latencies_us", "prepared", "route", "scores", "seen", "shadow", "units"),
        "variant",
    )

    def __init__(self, route: Route, variant: Variant, *, shadow: bool) -> None:
        self.route = route
        self.variant = variant
        self.shadow = shadow
        self.ids = bytearray()
        self.units: list[str] = []
        self.event_times_us = array("q")
        self.scores = array("d")
        self.latencies_us = array("I")
        self.fallbacks: list[tuple[int, int, str]] = []
        self.model_latencies_us = array("I")
        self.cached: list[bool] = []
        self.failures: list[str] = []
        self.seen = bytearray()
        self.given = array("d")
        self.prepared: list[tuple[Prepared, int]] = []

    def __len__(self) -> int:
        return len(self.event_times_us)

    def add(
        self,
        ids: Sequence[str],
        units: Sequence[str],
        event_times_us: Sequence[int],
        scores: Sequence[float],
        latencies_us: Sequence[int],
        prepared: Prepared | None,
        more: More,
    ) -> None:
        """Add rows of one request."""
        if more is not NOTHING_MORE:
            self._add_more(len(ids), more)
        self.ids += "".join(ids).encode()
        if units is not ids:
            self.units += units
        self.event_times_us.extend(event_times_us)
        self.scores.extend(scores)
        if max(latencies_us, default=0) > MOST_LATENCY_US:
            latencies_us = [min(each, MOST_LATENCY_US) for each in latencies_us]
        self.latencies_us.extend(latencies_us)
        if prepared is None:
            return
        if prepared.columns:
            self.prepared.append((prepared, len(ids)))
        elif prepared.values:
            self.given.extend(prepared.values)
        else:
            self.seen += prepared.matrix

    def add_block(self, answer: BlockAnswer, latency_us: int) -> None:
        """Add rows of a matrix, whose units are their ids."""
        count = answer.count
        self.ids += answer.ids.written()
        self.event_times_us.extend([answer.event_time_us] * count)
        self.scores.frombytes(answer.outputs[:, 0].tobytes())
        self.latencies_us.extend([min(latency_us, MOST_LATENCY_US)] * count)
        self.seen += answer.matrix

    def _add_more(self, rows: int, more: More) -> None:
        if more.fallback:
            self.fallbacks.append((len(self), rows, more.fallback))
        if more.model_latency_us:
            self.model_latencies_us.extend([min(more.model_latency_us, MOST_LATENCY_US)] * rows)
        if more.failure:
            self.failures.extend([more.failure] * rows)
        self.cached.extend(more.cached)


class More(NamedTuple):
    """What is to be said of few rows only.

    Attributes:
        fallback: Which fallback answered, or empty.
        shadow: Whether the answer went to nobody.
        model_latency_us: Time that the replica took, for an answer that others score as well.
        cached: Whether answers were kept ones, one a row; empty where none are kept.
        failure: Why a shadow did not score the rows; then there are no scores.
    """

    fallback: str = ""
    shadow: bool = False
    model_latency_us: int = 0
    cached: Sequence[bool] = ()
    failure: str = ""


NOTHING_MORE = More()
_PLAIN = (False,) * 4
#: How inputs are kept: not at all, in columns of any kind, as given numbers, as the model saw them.
_NONE, _COLUMNS, _GIVEN, _SEEN = range(4)


def key_of(
    route: Route,
    variant: Variant,
    ids: Sequence[str],
    units: Sequence[str],
    prepared: Prepared | None,
    more: More,
) -> tuple[Any, ...]:
    """What rows must share to be kept together: also which columns they have."""
    kept = _NONE if prepared is None else _kept(prepared)
    has = _PLAIN if more is NOTHING_MORE else _columns_of(more)
    return id(route), id(variant), units is ids, kept, has


def _kept(prepared: Prepared) -> int:
    return _COLUMNS if prepared.columns else _GIVEN if prepared.values else _SEEN


def block_key(route: Route, variant: Variant) -> tuple[Any, ...]:
    """The key of rows of a matrix whose units are their ids."""
    return id(route), id(variant), True, _SEEN, _PLAIN


def _columns_of(more: More) -> tuple[bool, ...]:
    cached = len(more.cached) > 0
    return more.shadow, more.model_latency_us > 0, cached, more.failure != ""


@dataclass(slots=True)
class ExposureRow:
    """A unit that was shown an arm.

    Attributes:
        assigned: Place of the arm that it got.
        scores: One an arm, NaN where it did not score.
        latencies_us: One an arm.
        errors: 1 where an arm failed.
    """

    endpoint: str
    experiment: str
    arms: tuple[str, ...]
    unit: str
    prediction_id: str
    event_time_us: int
    assigned: int
    scores: list[float]
    latencies_us: list[int]
    errors: list[int]

    @property
    def key(self) -> tuple[Any, ...]:
        """What rows of one batch share."""
        return self.endpoint, self.experiment, self.arms
