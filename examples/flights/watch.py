"""What happens in the loop while traffic flows: alerts, runs, gates, rollouts, as they come."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from client.errors import ProblemError
from client.sdk import Client
from examples.flights.definitions import ENDPOINT, MONITOR, PIPELINE

Json = dict[str, Any]
Say = Callable[[str, str], None]
"""Is told of each thing that happens: a kind and a text."""

POLL = 0.5
NOT_FOUND = 404
UNDER_WAY = frozenset({"STATE_QUEUED", "STATE_RUNNING"})
ENDED_ROLLOUT = frozenset({"STATE_PROMOTED", "STATE_ROLLED_BACK", "STATE_ABORTED", "STATE_FAILED"})
MOST_REASONS = 3


@dataclass
class Seen:
    """What has been told already."""

    steps: set[tuple[str, str]] = field(default_factory=set)
    events: dict[str, int] = field(default_factory=dict)
    states: dict[str, str] = field(default_factory=dict)
    actions: set[tuple[str, str]] = field(default_factory=set)


class Watch:
    """Looks at monitor, pipeline and endpoint from time to time and tells what is new."""

    def __init__(self, client: Client, say: Say) -> None:
        self._client = client
        self._say = say
        self._seen = Seen()
        self._next = 0.0
        self._moments: list[tuple[datetime, datetime]] = []
        self.runs: list[Json] = []
        self.rollouts: list[Json] = []
        self.alerts: list[Json] = []
        self.monitor: Json = {}
        self.references: list[Json] = []
        """The monitor as it was when its reference became another version's, oldest first."""

    @property
    def training(self) -> bool:
        """Whether a run is under way."""
        return any(run["state"] in UNDER_WAY for run in self.runs)

    @property
    def loading(self) -> bool:
        """Whether a challenger is being loaded."""
        return any(each["state"] == "STATE_LOADING" for each in self.rollouts)

    @property
    def rolling_out(self) -> bool:
        """Whether a rollout is under way."""
        return any(each["state"] not in ENDED_ROLLOUT for each in self.rollouts)

    @property
    def following(self) -> bool:
        """Whether the monitor's reference is to become that of another version."""
        return bool(self.monitor.get("follow_status"))

    def promoted(self) -> list[Json]:
        """Rollouts whose challenger became the champion."""
        return [each for each in self.rollouts if each["state"] == "STATE_PROMOTED"]

    def at(self, moment: datetime) -> datetime | None:
        """Simulated time at a moment of the wall clock, as the replay has told."""
        known = [simulated for wall, simulated in self._moments if wall <= moment]
        return known[-1] if known else None

    def tell_time(self, wall: datetime, simulated: datetime) -> None:
        """Notes what time it is in the replay."""
        self._moments.append((wall, simulated))

    def poll(self, *, at_once: bool = False) -> None:
        """Looks, when it is time to or `at_once`."""
        if not at_once and time.monotonic() < self._next:
            return
        self.alerts = self._listing(f"{MONITOR}/alerts", "alerts")
        self.runs = self._listing(f"{PIPELINE}/runs", "runs")
        self.rollouts = self._listing(f"{ENDPOINT}/rollouts", "rollouts")
        for alert in self.alerts:
            self._tell_alert(alert)
        for run in self.runs:
            self._tell_run(run)
        for rollout in self.rollouts:
            self._tell_rollout(rollout)
        self._look_at_reference()
        self._next = time.monotonic() + POLL

    def _listing(self, path: str, listed: str) -> list[Json]:
        """All of a listing, oldest first; nothing of what is not there yet."""
        try:
            return list(self._client.list(path, listed))[::-1]
        except ProblemError as error:
            if error.status != NOT_FOUND:
                raise
            return []

    def _look_at_reference(self) -> None:
        """Tells whose the reference is, and since when by the windows' time."""
        try:
            self.monitor = self._client.get(MONITOR)
        except ProblemError as error:
            if error.status != NOT_FOUND:
                raise
            return
        version = self.monitor["reference_model_version"]
        known = self.references[-1]["reference_model_version"] if self.references else ""
        if version != known:
            self.references.append(self.monitor)
            since = self.monitor.get("reference_since")
            text = f"from {day(since)} on" if since else "from the first window on"
            self._say("alert", f"drift is held against the data of v{number(version)} {text}")

    def _tell_alert(self, alert: Json) -> None:
        name, state = alert["name"], f"{alert['severity']} {alert['state']}"
        if self._seen.states.get(name) != state:
            self._seen.states[name] = state
            severity = word(alert["severity"]).lower()
            if alert["state"] == "STATE_RESOLVED":
                why = f": {alert['comment']}" if alert["comment"] else ""
                self._say("alert", f"{severity} {alert['kind']} alert is over{why}")
            else:
                self._say("alert", f"{severity} {alert['kind']}: {shortened(alert['summary'])}")
        for action in alert["actions"]:
            key = (f"{name} {action['response']} {action['state']}", action["result"])
            if action["state"] in ("PENDING", "HELD") or key in self._seen.actions:
                continue
            self._seen.actions.add(key)
            done = "" if action["state"] == "DONE" else f" {action['state'].lower()}"
            result = shortened(action["result"])
            self._say("alert", f"  response {word(action['response']).lower()}{done}: {result}")

    def _tell_run(self, run: Json) -> None:
        name = run["name"]
        if name not in self._seen.states:
            self._seen.states[name] = ""
            trigger = run["trigger"]
            self._say(
                "run",
                f"{short(name)} started by {word(trigger['kind']).lower()}, "
                f"data up to {day(run['window_end'])}",
            )
        for step in run["steps"]:
            key = (name, step["step"])
            if step["state"] in ("STATE_DONE", "STATE_FAILED") and key not in self._seen.steps:
                self._seen.steps.add(key)
                mark = "✓" if step["state"] == "STATE_DONE" else "✗"
                took = f"{seconds(step):.1f} s"
                self._say("step", f"{mark} {step['step']:<9} {took:>7}  {step['detail']}")
        if run["state"] not in UNDER_WAY and self._seen.states[name] != run["state"]:
            self._seen.states[name] = run["state"]
            reason = run["reason"].partition("; ")[0]
            self._say("run", f"{short(name)} {word(run['state']).lower()}: {reason}")

    def _tell_rollout(self, rollout: Json) -> None:
        name, events = rollout["name"], rollout["events"]
        version = f"v{number(rollout['model_version'])}"
        for event in events[self._seen.events.get(name, 0) :]:
            reasons = "; ".join(event["reasons"][:MOST_REASONS])
            at = f" after {event['samples']} labels" if int(event["samples"]) else ""
            text = f"{version} {event['step']}: {event['decision'].replace('_', ' ')}{at}"
            self._say("rollout", f"{text}{f' — {reasons}' if reasons else ''}")
        self._seen.events[name] = len(events)


def short(name: str) -> str:
    """A run by the end of its id: `run …c3f95c`."""
    kind, _, own = name.rpartition("/")
    return f"{kind.rpartition('/')[2].removesuffix('s')} …{own[-6:]}"


def number(name: str) -> int:
    """The number of a version."""
    return int(name.rpartition("/")[2])


def word(value: str) -> str:
    """The last word of an enum value: `CRITICAL` of `SEVERITY_CRITICAL`."""
    return value.partition("_")[2].replace("_", " ")


def day(instant: str) -> str:
    """A day as `22 Apr`."""
    return f"{datetime.fromisoformat(instant):%-d %b}"


def seconds(step: Json) -> float:
    """How long a step took."""
    begun, ended = (datetime.fromisoformat(step[name]) for name in ("start_time", "end_time"))
    return (ended - begun).total_seconds()


def shortened(text: str, most: int = 230) -> str:
    """A text that fits two lines."""
    return text if len(text) <= most else f"{text[: most - 1]}…"
