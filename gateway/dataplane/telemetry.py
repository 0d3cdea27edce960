"""Rate, errors and duration by endpoint and variant, with the label lookups kept out of the way."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from gateway.dataplane.ask import Answer, BlockAnswer, LoneRows
from gateway.dataplane.routing import Route
from service_kit import metrics

_rows = metrics.quick_counter(
    "predictions_total", "Rows answered.", ("endpoint", "variant", "fallback")
)
_refused = metrics.counter("predictions_refused_total", "Requests refused.", ("endpoint", "reason"))
_seconds = metrics.quick_histogram(
    "prediction_seconds", "Request to answer.", ("endpoint", "variant")
)
_in_flight = metrics.gauge("predictions_in_flight", "Requests under way.", ("endpoint",))


def observe(answer: Answer, seconds: float) -> None:
    """Count an answer."""
    endpoint = answer.route.endpoint
    for group in answer.scored:
        name = group.served.name if group.served else ""
        _child(_rows, endpoint, name, group.fallback).inc(len(group.rows))
        _child(_seconds, endpoint, name).observe(seconds)


def observe_lone(rows: LoneRows) -> None:
    """Count answers to requests for one row."""
    endpoint, name = rows.route.endpoint, rows.variant.name
    _child(_rows, endpoint, name, "").inc(len(rows.ids))
    observe = _child(_seconds, endpoint, name).observe
    for seconds in rows.seconds:
        observe(seconds)


def observe_block(answer: BlockAnswer, seconds: float) -> None:
    """Count an answer to a matrix of rows."""
    endpoint, name = answer.route.endpoint, answer.variant.name
    _child(_rows, endpoint, name, "").inc(answer.count)
    _child(_seconds, endpoint, name).observe(seconds)


def refused(route: Route, reason: str) -> None:
    """Count a refusal."""
    _child(_refused, route.endpoint, reason).inc()


def gauge_under_way(endpoint: str, counts: Mapping[str, int]) -> None:
    """Show an endpoint's count whenever somebody looks; cheaper than at each change."""
    _in_flight.labels(endpoint).set_function(lambda: counts.get(endpoint, 0))


@lru_cache(maxsize=4_096)
def _child(metric: Any, *labels: str) -> Any:
    return metric.labels(*labels)
