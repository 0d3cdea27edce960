"""Alerts: raised when drift persists, kept while it lasts, answered within limits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from monitor_svc.domain.judging import Finding
from monitor_svc.domain.monitors import Monitor, Policy, Severity

#: From this multiple of its detector's own threshold on a persisting drift is critical.
CRITICAL_SEVERITY = 4.0
#: And so is one of this share of the judged features (of two of them at least).
CRITICAL_SHARE = 0.25
_MICROSECOND = timedelta(microseconds=1)


class AlertState(StrEnum):
    """Life of an alert."""

    OPEN = "OPEN"
    ACKNOWLEDGED = "ACKNOWLEDGED"
    RESOLVED = "RESOLVED"


class AlertKind(StrEnum):
    """What an alert is about."""

    DRIFT = "drift"
    PERFORMANCE = "performance"


class ActionState(StrEnum):
    """Life of a response: wanted, done, given up, or held by a cool-down or a budget."""

    PENDING = "PENDING"
    DONE = "DONE"
    FAILED = "FAILED"
    HELD = "HELD"


@dataclass(frozen=True, slots=True)
class Alert:
    """Something that a person should know; event times in microseconds."""

    id: str
    monitor: str
    kind: AlertKind
    severity: Severity
    state: AlertState
    summary: str
    features: tuple[str, ...]
    event_us: int
    created: datetime
    calm_windows: int = 0
    comment: str = ""


@dataclass(frozen=True, slots=True)
class Action:
    """One response to an alert.

    `request_id` stays the same over every try: whoever is asked twice does it once. So does what
    is asked; `why` is what the alert said at first, for its summary changes with every window.
    """

    id: str
    alert: str
    monitor: str
    policy: Policy
    request_id: str
    state: ActionState
    event_us: int
    result: str = ""
    attempts: int = 0
    time: datetime | None = None
    why: str = ""


@dataclass(frozen=True, slots=True)
class Assessment:
    """What the last windows say together.

    Attributes:
        features: Features whose drift persists; none means that there is nothing to alert.
        severity: How bad; meaningless without features.
        summary: In words.
    """

    features: tuple[str, ...]
    severity: Severity
    summary: str


def assess(monitor: Monitor, windows: Sequence[Sequence[Finding]]) -> Assessment:
    """Judge the last judged windows, newest first.

    A feature counts when it drifts in the newest window and in `persistence` of the last
    `persistence_of`; so nothing is alerted for one window unless the monitor says so.
    """
    recent = windows[: monitor.persistence_of]
    counts: dict[str, int] = {}
    for window in recent:
        for feature in {finding.feature for finding in window if finding.drifted}:
            counts[feature] = counts.get(feature, 0) + 1
    newest = recent[0] if recent else ()
    worst = _worst_by_feature(newest)
    lasting = {name: f for name, f in worst.items() if counts[name] >= monitor.persistence}
    ranked = sorted(lasting, key=lambda name: (-lasting[name].severity, name))
    severity = _severity([lasting[name] for name in ranked], len({f.feature for f in newest}))
    lines = [
        f"{name}: {lasting[name].explanation}, in {counts[name]} of {len(recent)} windows"
        for name in ranked
    ]
    return Assessment(tuple(ranked), severity, "; ".join(lines[:5]) + _rest(len(lines) - 5))


def _worst_by_feature(window: Sequence[Finding]) -> dict[str, Finding]:
    worst: dict[str, Finding] = {}
    for finding in window:
        known = worst.get(finding.feature)
        if finding.drifted and (known is None or finding.severity > known.severity):
            worst[finding.feature] = finding
    return worst


def _severity(lasting: Sequence[Finding], judged: int) -> Severity:
    if any(finding.severity >= CRITICAL_SEVERITY for finding in lasting):
        return Severity.CRITICAL
    many = len(lasting) >= 2 and len(lasting) >= CRITICAL_SHARE * judged
    return Severity.CRITICAL if many else Severity.WARNING


def _rest(count: int) -> str:
    return f"; and {count} more" if count > 0 else ""


def next_alert(
    current: Alert | None, assessment: Assessment, monitor: Monitor, fresh: Alert
) -> Alert | None:
    """What the alert becomes after a further window; None when there is none to speak of.

    A persisting drift opens one alert and then updates it; its severity never falls while it is
    open. It is resolved after `persistence_of` windows without persisting drift. Acknowledged
    alerts stay so unless they grow worse. `fresh` gives the id and times of a new alert.
    """
    if not assessment.features:
        if current is None:
            return None
        calm = current.calm_windows + 1
        state = AlertState.RESOLVED if calm >= monitor.persistence_of else current.state
        return replace(current, calm_windows=calm, state=state)
    if current is None:
        return replace(
            fresh,
            severity=assessment.severity,
            summary=assessment.summary,
            features=assessment.features,
        )
    worse = assessment.severity > current.severity
    return replace(
        current,
        severity=max(current.severity, assessment.severity),
        state=AlertState.OPEN if worse else current.state,
        summary=assessment.summary,
        features=assessment.features,
        calm_windows=0,
    )


def wanted_policies(monitor: Monitor, severity: Severity) -> list[Policy]:
    """The policies that answer an alert of this severity, in their order."""
    return [policy for policy in monitor.policies if policy.severity <= severity]


def why_held(policy: Policy, event_us: int, earlier: Sequence[int]) -> str:
    """Why a response must wait, or an empty string.

    Args:
        policy: With the cool-down and the budget.
        event_us: Event time of the window that asks for it.
        earlier: Event times of such responses of the monitor that were made.
    """
    cooldown = policy.cooldown // _MICROSECOND
    if any(abs(event_us - time) < cooldown for time in earlier):
        return f"held: less than {_days(policy.cooldown)} of event time since the last one"
    period = policy.budget_period // _MICROSECOND
    spent = sum(abs(event_us - time) < period for time in earlier)
    if policy.budget and spent >= policy.budget:
        return f"held: {spent} of {policy.budget} within {_days(policy.budget_period)} are spent"
    return ""


def same_response(first: Policy, second: Policy) -> bool:
    """Whether two policies ask for the same thing, and so share cool-down and budget."""
    return (first.response, first.pipeline, first.sink, first.sink_config) == (
        second.response, second.pipeline, second.sink, second.sink_config
    )  # fmt: skip


def request_id(alert_id: str, number: int) -> str:
    """Idempotency key of the n-th action of an alert, from 1."""
    return alert_id if number == 1 else f"{alert_id}-{number}"


def _days(span: timedelta) -> str:
    days = span / timedelta(days=1)
    return f"{days:g} days" if days >= 1 else f"{span / timedelta(hours=1):g} hours"
