"""Monitors: what is watched, in which windows, and what is done about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import IntEnum, StrEnum

from monitor_svc.domain.watermarks import GRID_ORIGIN_US, Watermark
from service_kit.errors import InvalidArgument

MINUTE, LONGEST_WINDOW = timedelta(minutes=1), timedelta(days=92)
MAX_FEATURES, MAX_DETECTORS, MAX_POLICIES = 1_000, 20, 50
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
class Following:
    """A version that answers now, while the reference is another one's.

    Attributes:
        version: `models/{model}/versions/{version}`.
        due: When its training set is asked for next; None when the reference stays as it is.
        attempts: How often it was asked for.
        reason: Why it has not been followed, in words.
    """

    version: str
    due: datetime | None
    attempts: int = 0
    reason: str = ""


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
        follow_champion: Whether the reference is to be that of the version that answers.
        epoch: Counts up whenever the reference or the window length changes.
        reference_rows: Rows of the reference in force; 0 while there is none.
        reference_version: Version that the reference belongs to; empty while that is unknown.
        since_us: Windows from there on belong to this epoch, those before it to the one before;
            microseconds, None when all of them belong to it.
        following: The version to be followed, if any.
        mark: How far event time has come.
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
    follow_champion: bool = False
    epoch: int = 0
    reference_rows: int = 0
    reference_version: str = ""
    since_us: int | None = None
    following: Following | None = field(default=None, compare=False)
    mark: Watermark = field(default=Watermark(), compare=False)
    created: datetime = datetime(1970, 1, 1, tzinfo=UTC)

    @property
    def window_us(self) -> int:
        """Length of a window in microseconds."""
        return self.window // timedelta(microseconds=1)

    @property
    def watermark_us(self) -> int | None:
        """Event time that is believed, microseconds; None before the first."""
        return self.mark.time_us

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
