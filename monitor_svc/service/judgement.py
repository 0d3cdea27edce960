"""Closing windows: findings, alerts and the responses that they ask for, in one transaction."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace

from monitor_svc.domain.alerts import (
    Action,
    ActionState,
    Alert,
    AlertKind,
    AlertState,
    assess,
    next_alert,
    request_id,
    same_response,
    wanted_policies,
    why_held,
)
from monitor_svc.domain.comparison import NamedDetector
from monitor_svc.domain.following import begins_to_follow, noticed
from monitor_svc.domain.judging import Baselines, Finding, block_baselines, judge
from monitor_svc.domain.monitors import Monitor, Policy, Response, Severity
from monitor_svc.domain.profiles import Reference
from monitor_svc.service.ports import Detectors, Store, WindowState
from service_kit import metrics
from service_kit.clock import Clock
from service_kit.errors import DomainError
from service_kit.ids import uuid7_str

_KEPT_BASELINES = 256
_log = logging.getLogger(__name__)


class Judgement:
    """Judges closed windows and raises alerts."""

    def __init__(self, detectors: Detectors, clock: Clock) -> None:
        self._detectors = detectors
        self._clock = clock
        self._baselines: OrderedDict[tuple[object, ...], Baselines] = OrderedDict()
        self._score = metrics.gauge(
            "monitor_drift_score", "Newest score.", ["monitor", "feature", "detector"]
        )
        self._windows = metrics.counter(
            "monitor_windows_total", "Windows closed.", ["monitor", "result"]
        )
        self._failures = metrics.counter(
            "monitor_detector_failures_total", "Findings that failed.", ["detector"]
        )

    def close_windows(self, store: Store, monitor: Monitor) -> None:
        """Judge every window that ends before the monitor's watermark, oldest first."""
        limit = monitor.closed_before_us
        if limit is None:
            return
        for window in store.open_windows(monitor.id, limit):
            after = self._noticed(store, monitor, window)
            # The reference of another version than the one that answers says nothing of the latter;
            # should it take longer than a window to follow, the old reference counts meanwhile.
            outgrown = bool(monitor.reference_version) and begins_to_follow(monitor, after)
            self.close(store, monitor, window, silent=outgrown or window.epoch < monitor.epoch)
            if after is not monitor:
                store.save_monitor(after)
                monitor = after

    def close(
        self, store: Store, monitor: Monitor, window: WindowState, *, silent: bool = False
    ) -> None:
        """Judge one window by the reference of its own epoch and act on what is found.

        Of a `silent` one, which a change of the reference has overtaken, the findings are kept;
        nothing is done about them.
        """
        reference = store.reference(monitor.id, window.epoch)
        judged = reference is not None and window.row_count >= monitor.min_rows
        findings: list[Finding] = []
        if judged and reference is not None:
            findings = self._findings(monitor, window, reference)
        window = replace(window, closed=True, skipped=not judged, findings=tuple(findings))
        store.save_windows([window])
        self._windows.labels(monitor.id, "judged" if judged else "skipped").inc()
        if judged and not silent:
            self._alert(store, monitor, window)

    def _noticed(self, store: Store, monitor: Monitor, window: WindowState) -> Monitor:
        """The monitor, now that it is known who answered one of its windows."""
        ours = window.epoch == monitor.epoch and window.row_count >= monitor.min_rows
        if not monitor.follow_champion or not ours:
            return monitor
        return noticed(monitor, store.answered(monitor, window.start_us), self._clock.now())

    def raise_alert(self, store: Store, monitor: Monitor, alert: Alert, event_us: int) -> None:
        """Save an alert and the responses that the monitor's policies ask for at that event time.

        Of an alert about performance nothing asks for an evaluation again.
        """
        store.save_alert(alert, monitor.endpoint)
        policies = wanted_policies(monitor, alert.severity)
        if alert.kind is AlertKind.PERFORMANCE:
            policies = [p for p in policies if p.response is not Response.EVALUATE]
        if alert.state is AlertState.ACKNOWLEDGED:
            policies = [p for p in policies if p.response is not Response.NOTIFY]
        for policy in policies:
            self._respond(store, alert, policy, event_us)

    def _findings(
        self, monitor: Monitor, window: WindowState, reference: Reference
    ) -> list[Finding]:
        try:
            detectors = self._detectors.configured(monitor.detectors)
        except DomainError:
            # A plugin that was removed must not stop the stream; the window stays unjudged.
            _log.warning("detectors of a monitor cannot be loaded", exc_info=True)
            self._failures.labels("unavailable").inc()
            return []
        watched = _watched(reference, monitor.features)
        baselines = self._baselines_of(monitor, window.epoch, watched, detectors)
        findings = judge(watched, window.sketches, detectors, monitor.false_alarm_rate, baselines)
        for finding in findings:
            if finding.failed:
                self._failures.labels(finding.detector).inc()
            else:
                labels = (monitor.id, finding.feature, finding.detector)
                self._score.labels(*labels).set(finding.score)
        return findings

    def _baselines_of(
        self, monitor: Monitor, epoch: int, watched: Reference, detectors: Sequence[NamedDetector]
    ) -> Baselines:
        specs = tuple((d.detector, repr(dict(d.config)), d.features) for d in monitor.detectors)
        # The sketches tell references apart: after a roll-back an epoch may come anew.
        key = (
            monitor.id, epoch, watched.row_count, monitor.features, specs,
            monitor.false_alarm_rate, monitor.created,
        )  # fmt: skip
        if key not in self._baselines:
            found = block_baselines(watched, detectors, monitor.false_alarm_rate)
            self._baselines[key] = found
            if len(self._baselines) > _KEPT_BASELINES:
                self._baselines.popitem(last=False)
        return self._baselines[key]

    def _alert(self, store: Store, monitor: Monitor, window: WindowState) -> None:
        before = store.judged_windows(window, monitor.persistence_of - 1)
        assessment = assess(monitor, [window.findings, *(w.findings for w in before)])
        current = store.active_alert(monitor.id, AlertKind.DRIFT)
        fresh = Alert(
            uuid7_str(), monitor.id, AlertKind.DRIFT, Severity.WARNING, AlertState.OPEN,
            "", (), window.end_us, self._clock.now(),
        )  # fmt: skip
        alert = next_alert(current, assessment, monitor, fresh)
        if alert is None:
            return
        if assessment.features:
            self.raise_alert(store, monitor, alert, window.end_us)
        else:
            store.save_alert(alert, monitor.endpoint)

    def _respond(self, store: Store, alert: Alert, policy: Policy, event_us: int) -> None:
        actions = store.actions_of_monitor(alert.monitor)
        alike = [action for action in actions if same_response(action.policy, policy)]
        made = [a for a in alike if a.state in (ActionState.PENDING, ActionState.DONE)]
        mine = [action for action in alike if action.alert == alert.id]
        reason = why_held(policy, event_us, [action.event_us for action in made])
        # Said once: that an alert's response is held, and what was asked for at this time.
        told = mine and mine[-1].state is not ActionState.FAILED
        if (reason and told) or any(action.event_us == event_us for action in mine):
            return
        number = 1 + sum(
            action.alert == alert.id
            and action.policy.response is policy.response
            and action.state is not ActionState.HELD
            for action in actions
        )
        now = self._clock.now()
        state = ActionState.HELD if reason else ActionState.PENDING
        action = Action(
            uuid7_str(), alert.id, alert.monitor, policy, request_id(alert.id, number),
            state, event_us, reason, time=now if reason else None, why=alert.summary,
        )  # fmt: skip
        store.save_action(action, now)


def _watched(reference: Reference, features: Sequence[str]) -> Reference:
    if not features:
        return reference
    profiles = {name: p for name, p in reference.profiles.items() if name in features}
    return replace(reference, profiles=profiles)
