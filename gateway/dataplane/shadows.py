"""What `/metrics` says of shadows: rate, failures, duration, difference from the answer."""

from __future__ import annotations

from collections.abc import Sequence

from service_kit import metrics

#: Scores from here on are of the one class, lower ones of the other.
THRESHOLD = 0.5
_LABELS = ("endpoint", "variant")

_rows = metrics.counter(
    "shadow_rows_total",
    "Mirrored rows: on the answer's side of 0.5 (agreed), on the other (differed), or failed.",
    (*_LABELS, "outcome"),
)
_seconds = metrics.histogram("shadow_seconds", "Time of a shadow's model call.", _LABELS)
_difference = metrics.histogram(
    "shadow_difference",
    "Absolute difference of a shadow's score and the answer.",
    _LABELS,
    buckets=(1e-6, 1e-4, 1e-3, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 10.0, 100.0),
)


def scored(endpoint: str, variant: str, seconds: float) -> None:
    """Note a shadow's model call."""
    _seconds.labels(endpoint, variant).observe(seconds)


def failed(endpoint: str, variant: str, rows: int) -> None:
    """Count rows that a shadow did not score."""
    _rows.labels(endpoint, variant, "failed").inc(rows)


def compared(
    endpoint: str, variant: str, answered: Sequence[float], shadow: Sequence[float]
) -> None:
    """Hold a shadow's scores against those that were answered, row by row."""
    pairs = list(zip(answered, shadow, strict=True))
    agreed = sum((one >= THRESHOLD) == (other >= THRESHOLD) for one, other in pairs)
    _rows.labels(endpoint, variant, "agreed").inc(agreed)
    _rows.labels(endpoint, variant, "differed").inc(len(pairs) - agreed)
    difference = _difference.labels(endpoint, variant)
    for one, other in pairs:
        difference.observe(abs(other - one))
