from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from monitor_svc.domain.alerts import (
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
from monitor_svc.domain.judging import Finding
from monitor_svc.domain.monitors import Monitor, Policy, Response, Severity

DAY = 86_400_000_000
MONITOR = Monitor("m", "endpoints/e")
FRESH = Alert(
    "id", "m", AlertKind.DRIFT, Severity.WARNING, AlertState.OPEN, "", (), 0,
    datetime(2026, 1, 1, tzinfo=UTC),
)  # fmt: skip


def window(**severities: float) -> list[Finding]:
    """Findings of a window; a severity above 1 drifts."""
    return [
        Finding("psi", name, s * 0.25, None, 0.25, s, s > 1, f"PSI {s * 0.25:.3g} > 0.25")
        for name, s in severities.items()
    ]


def test_one_window_is_not_enough():
    assert assess(MONITOR, [window(temp=9.0, hour=0.1)]).features == ()
    assert assess(MONITOR, []).features == ()


def test_two_of_three_windows_are():
    found = assess(MONITOR, [window(temp=2.0, a=0, b=0), window(temp=0.5), window(temp=3.0)])
    assert found.features == ("temp",)
    assert found.severity is Severity.WARNING
    assert found.summary == "temp: PSI 0.5 > 0.25, in 2 of 3 windows"


def test_drift_of_the_past_does_not_count():
    assert assess(MONITOR, [window(temp=0.5), window(temp=9.0), window(temp=9.0)]).features == ()
    old = [window(temp=2.0), window(temp=0.1), window(temp=0.1), window(temp=2.0)]
    assert assess(MONITOR, old).features == ()


def test_strong_or_wide_drift_is_critical():
    strong = [window(temp=4.5, a=0, b=0)] * 2
    assert assess(MONITOR, strong).severity is Severity.CRITICAL
    wide = [window(x=1.2, y=1.2, a=0, b=0, c=0, d=0, e=0, f=0)] * 2
    assert assess(MONITOR, wide).severity is Severity.CRITICAL
    alone = [window(x=1.2, y=0, z=0)] * 2
    assert assess(MONITOR, alone).severity is Severity.WARNING


def test_an_alert_opens_grows_and_ends():
    warning, none = assess(MONITOR, [window(x=2.0, y=0, z=0)] * 2), assess(MONITOR, [])
    critical = assess(MONITOR, [window(x=9.0)] * 2)
    assert next_alert(None, none, MONITOR, FRESH) is None
    alert = next_alert(None, warning, MONITOR, FRESH)
    assert alert is not None
    assert alert.features == ("x",)
    seen = replace(alert, state=AlertState.ACKNOWLEDGED)
    again = next_alert(seen, warning, MONITOR, FRESH)
    assert again is not None
    assert again.state is AlertState.ACKNOWLEDGED
    worse = next_alert(seen, critical, MONITOR, FRESH)
    assert worse is not None
    assert (worse.state, worse.severity) == (AlertState.OPEN, Severity.CRITICAL)
    better = next_alert(worse, warning, MONITOR, FRESH)
    assert better is not None
    assert better.severity is Severity.CRITICAL
    for expected in (AlertState.OPEN, AlertState.OPEN, AlertState.RESOLVED):
        assert better is not None
        better = next_alert(better, none, MONITOR, FRESH)
        assert better is not None
        assert better.state is expected


def test_cooldown_and_budget_go_by_event_time():
    policy = Policy(
        Severity.WARNING, Response.NOTIFY, cooldown=timedelta(days=7), budget=2,
        budget_period=timedelta(days=30),
    )  # fmt: skip
    assert why_held(policy, 0, []) == ""
    assert "7 days" in why_held(policy, 6 * DAY, [0])
    assert why_held(policy, 7 * DAY, [0]) == ""
    assert "2 of 2 within 30 days" in why_held(policy, 20 * DAY, [0, 8 * DAY])
    assert why_held(policy, 30 * DAY, [0, 8 * DAY]) == ""


def test_policies_by_severity():
    notify = Policy(Severity.WARNING, Response.NOTIFY)
    retrain = Policy(Severity.CRITICAL, Response.RETRAIN, pipeline="pipelines/p")
    monitor = replace(MONITOR, policies=(notify, retrain))
    assert wanted_policies(monitor, Severity.WARNING) == [notify]
    assert wanted_policies(monitor, Severity.CRITICAL) == [notify, retrain]
    assert same_response(notify, replace(notify, cooldown=timedelta(1)))
    assert not same_response(notify, retrain)
    assert (request_id("a", 1), request_id("a", 2)) == ("a", "a-2")
