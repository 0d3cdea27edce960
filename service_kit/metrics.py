"""Prometheus metrics of this process, in a registry of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

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

#: Every metric of the process; ``/metrics`` shows this and nothing else.
REGISTRY = CollectorRegistry()

#: Upper bounds of the buckets of durations, in seconds: half a millisecond to half a minute.
SECONDS = (
    *(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
)

_PREFIX = "modelyard_"
_M = TypeVar("_M", bound=MetricWrapperBase)
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
