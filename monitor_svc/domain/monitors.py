"""Monitors: what is watched, in which windows, and what is done about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import IntEnum, StrEnum

from service_kit.errors import InvalidArgument

MINUTE, LONGEST_WINDOW = timedelta(minutes=1), timedelta(days=92)
MAX_FEATURES, MAX_DETECTORS, MAX_POLICIES = 1_000, 20, 50
#: A Monday: weekly windows begin on Mondays, daily ones at midnight UTC.
GRID_ORIGIN_US = -3 * 86_400_000_000
#: Name under which the prediction itself is sketched.
SCORE = "score"


class Severity(IntEnum):
    """How bad it is; greater is worse."""

    WARNING = 1
    CRITICAL = 2


class Response(StrEnum):
    """What can be done about an alert."""

    NOTIFY = "NOTIFY"
    EVALUATE = "EVALUATE"
    RETRAIN = "RETRAIN"
    ROLLBACK = "ROLLBACK"


@dataclass(frozen=True, slots=True)
class Policy:
    """From which severity on what is done, and how often at most, in event time."""

    severity: Severity
    response: Response
    pipeline: str = ""
    sink: str = ""
    sink_config: Mapping[str, object] = field(default_factory=dict)
    cooldown: timedelta = timedelta(days=7)
    budget: int = 0
    budget_period: timedelta = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class DetectorSpec:
    """A detector plugin with its settings; all features when `features` is empty."""

    detector: str
    config: Mapping[str, object] = field(default_factory=dict)
    features: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Monitor:
    """What is watched of one endpoint.

    Attributes:
        id: Chosen by its maker.
        endpoint: `endpoints/{endpoint}`.
        reference_training_set: `trainingSets/{sha256}`, or empty when rows were given.
        features: Watched ones; all of the reference when empty.
        detectors: What looks at them.
        window: Length of a window.
        allowed_lateness: How long after its end a window takes predictions.
        min_rows: Fewest rows of a window that is judged.
        policies: What is done when.
        false_alarm_rate: Over all features of a window.
        persistence: Windows in which a feature must drift, ...
        persistence_of: ... of so many last ones.
        epoch: Counts up whenever the reference or the window length changes.
        reference_rows: Rows of the reference in force; 0 while there is none.
        watermark_us: Greatest event time seen, microseconds; None before the first.
        created: When it was created.
    """

    id: str
    endpoint: str
    reference_training_set: str = ""
    features: tuple[str, ...] = ()
    detectors: tuple[DetectorSpec, ...] = (DetectorSpec("psi"),)
    window: timedelta = timedelta(days=1)
    allowed_lateness: timedelta = timedelta(0)
    min_rows: int = 100
    policies: tuple[Policy, ...] = ()
    false_alarm_rate: float = 0.01
    persistence: int = 2
    persistence_of: int = 3
    epoch: int = 0
    reference_rows: int = 0
    watermark_us: int | None = None
    created: datetime = datetime(1970, 1, 1, tzinfo=UTC)

    @property
    def window_us(self) -> int:
        """Length of a window in microseconds."""
        return self.window // timedelta(microseconds=1)

    @property
    def closed_before_us(self) -> int | None:
        """Event time before which every window has closed."""
        if self.watermark_us is None:
            return None
        limit = self.watermark_us - self.allowed_lateness // timedelta(microseconds=1)
        return window_start(limit, self.window_us)


def window_start(time_us: int, window_us: int) -> int:
    """Start of the window that an event time falls into, microseconds."""
    return (time_us - GRID_ORIGIN_US) // window_us * window_us + GRID_ORIGIN_US


def check_monitor(monitor: Monitor) -> Monitor:
    """Return the monitor, or refuse it with the name of the field at fault."""
    _within("window", MINUTE <= monitor.window <= LONGEST_WINDOW, "must be 1 minute to 92 days")
    _within(
        "allowed_lateness",
        timedelta(0) <= monitor.allowed_lateness <= LONGEST_WINDOW,
        "must be 0 to 92 days",
    )
    _within("min_rows", 1 <= monitor.min_rows <= 10**9, "must be positive")
    _within(
        "false_alarm_rate", 0 < monitor.false_alarm_rate <= 0.5, "must be above 0 and at most 0.5"
    )
    _within(
        "persistence",
        1 <= monitor.persistence <= monitor.persistence_of <= 100,
        "must be 1 to persistence_of, and that at most 100",
    )
    _within("features", len(monitor.features) <= MAX_FEATURES, "are too many")
    _within("features", len(set(monitor.features)) == len(monitor.features), "must differ")
    _within("detectors", len(monitor.detectors) <= MAX_DETECTORS, "are too many")
    _within("policies", len(monitor.policies) <= MAX_POLICIES, "are too many")
    for number, policy in enumerate(monitor.policies):
        _check_policy(f"policies[{number}]", policy)
    return monitor


def _check_policy(where: str, policy: Policy) -> None:
    if policy.response is Response.RETRAIN:
        _within(f"{where}.pipeline", bool(policy.pipeline), "is needed to retrain")
    _within(f"{where}.cooldown", policy.cooldown >= timedelta(0), "must not be negative")
    _within(f"{where}.budget", policy.budget >= 0, "must not be negative")
    _within(f"{where}.budget_period", policy.budget_period > timedelta(0), "must be positive")


def _within(field_name: str, fine: bool, message: str) -> None:
    if not fine:
        raise InvalidArgument(
            "INVALID_MONITOR", f"{field_name} {message}", field=f"monitor.{field_name}"
        )
