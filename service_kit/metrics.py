"""Prometheus metrics of this process, in a registry of its own."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from typing import Generic, TypeVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    ProcessCollector,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.metrics_core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

#: Every metric of the process; ``/metrics`` shows this and nothing else.
REGISTRY = CollectorRegistry()

#: Upper bounds of the buckets of durations, in seconds: half a millisecond to half a minute.
SECONDS = (
    *(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
)

_PREFIX = "modelyard_"
_M = TypeVar("_M", bound=MetricWrapperBase)
_C = TypeVar("_C")
_made: dict[str, MetricWrapperBase] = {}
_lock = threading.Lock()

ProcessCollector(registry=REGISTRY)
GCCollector(registry=REGISTRY)


def counter(name: str, documentation: str, labels: Sequence[str] = ()) -> Counter:
    """The counter ``modelyard_{name}``, made at the first call; end its name in ``_total``."""
    return _once(
        name, Counter, lambda full: Counter(full, documentation, labels, registry=REGISTRY)
    )


def gauge(name: str, documentation: str, labels: Sequence[str] = ()) -> Gauge:
    """The gauge ``modelyard_{name}``, made at the first call."""
    return _once(name, Gauge, lambda full: Gauge(full, documentation, labels, registry=REGISTRY))


def histogram(
    name: str,
    documentation: str,
    labels: Sequence[str] = (),
    buckets: Sequence[float] = SECONDS,
) -> Histogram:
    """The histogram ``modelyard_{name}``, made at the first call; durations are in seconds."""
    return _once(
        name,
        Histogram,
        lambda full: Histogram(full, documentation, labels, registry=REGISTRY, buckets=buckets),
    )


def quick_histogram(name: str, documentation: str, labels: Sequence[str]) -> QuickHistogram:
    """The histogram ``modelyard_{name}`` of durations in seconds, for one thread's hot path."""
    made = QuickHistogram(_PREFIX + name, documentation, labels)
    REGISTRY.register(made)
    return made


def quick_counter(name: str, documentation: str, labels: Sequence[str]) -> QuickCounter:
    """The counter ``modelyard_{name}``, for one thread's hot path; end its name in ``_total``."""
    made = QuickCounter(_PREFIX + name, documentation, labels)
    REGISTRY.register(made)
    return made


class _Quick(Collector, Generic[_C]):
    """A metric without a lock. Change it from one thread only."""

    def __init__(
        self, name: str, documentation: str, labels: Sequence[str], child: Callable[[], _C]
    ) -> None:
        self._name = name
        self._documentation = documentation
        self._labels = tuple(labels)
        self._child = child
        self._children: dict[tuple[str, ...], _C] = {}

    def labels(self, *values: str) -> _C:
        """What is noted under some labels."""
        child = self._children.get(values)
        if child is None:
            child = self._children[values] = self._child()
        return child


class QuickCounter(_Quick["Count"]):
    """A counter whose change is an addition."""

    def __init__(self, name: str, documentation: str, labels: Sequence[str]) -> None:
        super().__init__(name, documentation, labels, Count)

    def describe(self) -> Iterable[Metric]:
        """Called by the registry."""
        return [CounterMetricFamily(self._name, self._documentation, labels=self._labels)]

    def collect(self) -> Iterable[Metric]:
        """Called by the registry."""
        family = CounterMetricFamily(self._name, self._documentation, labels=self._labels)
        for values, child in list(self._children.items()):
            family.add_metric(values, child.value)
        return [family]


class QuickHistogram(_Quick["Durations"]):
    """A histogram whose change is a search and two additions.

    A reader elsewhere may see one observation in its count and not yet in its sum.
    """

    def __init__(self, name: str, documentation: str, labels: Sequence[str]) -> None:
        super().__init__(name, documentation, labels, Durations)

    def describe(self) -> Iterable[Metric]:
        """Called by the registry."""
        return [HistogramMetricFamily(self._name, self._documentation, labels=self._labels)]

    def collect(self) -> Iterable[Metric]:
        """Called by the registry."""
        family = HistogramMetricFamily(self._name, self._documentation, labels=self._labels)
        for values, child in list(self._children.items()):
            family.add_metric(values, buckets=child.buckets(), sum_value=child.total)
        return [family]


class Count:
    """A count under some labels."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def inc(self, amount: float = 1.0) -> None:
        """Add to it."""
        self.value += amount


class Durations:
    """Observations under the same labels."""

    __slots__ = ("_counts", "total")

    def __init__(self) -> None:
        self.total = 0.0
        self._counts = [0] * (len(SECONDS) + 1)

    def observe(self, seconds: float) -> None:
        """Note one."""
        self._counts[bisect_left(SECONDS, seconds)] += 1
        self.total += seconds

    def buckets(self) -> list[tuple[str, float]]:
        """How many there were up to each bound."""
        bounds = [*map(floatToGoString, SECONDS), "+Inf"]
        return list(zip(bounds, accumulate(map(float, self._counts)), strict=True))


def render() -> tuple[bytes, str]:
    """All metrics in Prometheus' text format, with the content type."""
    return generate_latest(REGISTRY), CONTENT_TYPE_LATEST


def _once(name: str, kind: type[_M], make: Callable[[str], _M]) -> _M:
    full = _PREFIX + name
    with _lock:
        metric = _made.get(full)
        if metric is None:
            metric = _made[full] = make(full)
    if not isinstance(metric, kind):
        raise TypeError(f"{full} is a {type(metric).__name__} already")
    return metric
