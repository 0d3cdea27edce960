"""The end of the story in tables, from what the suite itself has on record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from client.sdk import Client
from examples.flights.definitions import ENDPOINT, MODEL, MONITOR
from examples.flights.drive import Asked, Ledger
from examples.flights.watch import Watch, day, number, shortened, word

Json = dict[str, Any]


@dataclass(frozen=True)
class Quality:
    """PR-AUC of one version in one month."""

    month: str
    version: str
    role: str
    labelled: int
    base_rate: float
    pr_auc: float


def versions_table(client: Client, watch: Watch) -> Table:
    """Each version: what its gate said and what became of it."""
    table = Table("version", "started by", "data up to", "PR-AUC (champion)", "gate", "stage")
    table.title = "Versions"
    runs = {run["model_version"]: run for run in watch.runs if run["model_version"]}
    for version in sorted(
        client.list(f"{MODEL}/versions", "model_versions"), key=lambda each: number(each["name"])
    ):
        run = runs.get(version["name"])
        old = run["champion_metrics"].get("pr_auc") if run else None
        new = version["metrics"].get("pr_auc", float("nan"))
        aliases = f" ({', '.join(version['aliases'])})" if version["aliases"] else ""
        table.add_row(
            f"v{number(version['name'])}",
            word(run["trigger"]["kind"]).lower() if run else "",
            day(run["window_end"]) if run else "",
            f"{new:.4f}" + (f" ({old:.4f})" if old is not None else ""),
            gate_text(version["gate"]),
            f"{word(version['stage']).lower()}{aliases}",
        )
    return table


def gate_text(gate: Json) -> str:
    """Outcome of a gate with its first reason."""
    reason = gate["reasons"][0] if gate["reasons"] else ""
    return f"{word(gate['outcome']).lower()}: {shortened(reason, 110)}"


def rollouts_table(watch: Watch) -> Table:
    """Each rollout: how far it came, and why."""
    table = Table("rollout", "from", "to", "steps", "end", title="Rollouts")
    for rollout in watch.rollouts:
        steps = [each["step"] for each in rollout["events"] if each["decision"] == "advanced"]
        table.add_row(
            f"v{number(rollout['model_version'])} against v{number(rollout['champion_version'])}",
            simulated(watch, rollout["create_time"]),
            simulated(watch, rollout.get("end_time")),
            " → ".join(steps),
            f"{word(rollout['state']).lower()}: {shortened(rollout['reason'], 110)}",
        )
    return table


def alerts_table(watch: Watch) -> Table:
    """Each alert and what was done about it."""
    table = Table("window until", "severity", "kind", "features", "responses", "now")
    table.title = "Alerts"
    for alert in watch.alerts:
        done = [
            f"{word(action['response']).lower()} {action['state'].lower()}"
            for action in alert["actions"]
        ]
        table.add_row(
            day(alert["event_time"]),
            word(alert["severity"]).lower(),
            alert["kind"],
            shortened(", ".join(alert["features"]), 60),
            shortened(", ".join(f"{each} ({done.count(each)})" for each in dict.fromkeys(done))),
            word(alert["state"]).lower() + (f": {alert['comment']}" if alert["comment"] else ""),
        )
    return table


def references_table(watch: Watch) -> Table:
    """What the drift was held against, and from which window on."""
    table = Table("windows from", "version", "training set", "rows", title="Drift references")
    for monitor in watch.references:
        since = monitor.get("reference_since")
        table.add_row(
            day(since) if since else "the first",
            f"v{number(monitor['reference_model_version'])}",
            shortened(monitor["reference_training_set"], 26),
            monitor["reference_state"],
        )
    return table


def traffic_table(client: Client, watch: Watch) -> Table:
    """Who answered which share of the requests, over the replay's time."""
    table = Table("generation", "since", "answers", "shadows", "why", title="Traffic")
    listed = list(client.list(f"{ENDPOINT}/trafficTables", "traffic_tables"))
    for each in reversed(listed):
        answers = [f"{v['variant']} {v['weight']:g} %" for v in each["variants"] if v["weight"]]
        shadows = [f"{v['variant']} {v['shadow']:g} %" for v in each["variants"] if v["shadow"]]
        table.add_row(
            str(each["generation"]),
            simulated(watch, each["create_time"]),
            ", ".join(answers),
            ", ".join(shadows),
            shortened(each["reason"], 70),
        )
    return table


def simulated(watch: Watch, wall: str | None) -> str:
    """The replay's day at a moment of the wall clock."""
    moment = watch.at(datetime.fromisoformat(wall)) if wall else None
    return f"{moment:%-d %b}" if moment else ""


def qualities(client: Client) -> list[Quality]:
    """PR-AUC by month and version, as the monitor has it."""
    report = client.get(f"{MONITOR}/performance", group_by="MONTH")
    return [
        Quality(
            month=f"{datetime.fromisoformat(each['start_time']):%B}",
            version=f"v{number(each['model_version'])}",
            role=each["role"],
            labelled=int(each["labelled_count"]),
            base_rate=each["metrics"]["base_rate"],
            pr_auc=each["metrics"]["pr_auc"],
        )
        for each in report["windows"]
        if "pr_auc" in each["metrics"]
    ]


def quality_table(found: Sequence[Quality], ledger: Ledger) -> Table:
    """PR-AUC by month: the monitor's numbers beside those of the replay's own ledger."""
    table = Table("month", "version", "role", "labelled", "late", "PR-AUC", "own count")
    table.title = "Quality (weeks count to the month that they begin in)"
    own = own_quality(ledger)
    for each in found:
        key = (each.month, each.version)
        check = f"{own[key]:.4f}" if each.role == "primary" and key in own else ""
        role = "answered" if each.role == "primary" else "shadow"
        table.add_row(
            each.month, each.version, role, f"{each.labelled:,}", f"{each.base_rate:.3f}",
            f"{each.pr_auc:.4f}", check,
        )  # fmt: skip
    return table


def own_quality(ledger: Ledger) -> dict[tuple[str, str], float]:
    """PR-AUC by month and answering version of what the replay was told; weeks as above."""
    groups: dict[tuple[str, str], list[Asked]] = {}
    for asked in ledger.asked.values():
        if asked.late is not None:
            monday = asked.departure.toordinal() - asked.departure.weekday()
            key = (f"{datetime.fromordinal(monday):%B}", f"v{number(asked.version)}")
            groups.setdefault(key, []).append(asked)
    return {
        key: average_precision(
            np.array([each.late for each in group]), np.array([each.score for each in group])
        )
        for key, group in groups.items()
    }


def average_precision(labels: NDArray[Any], scores: NDArray[Any]) -> float:
    """Area under the precision-recall curve as the mean precision at each positive."""
    ranked = labels[np.argsort(-scores, kind="stable")]
    hits = np.cumsum(ranked)
    precision = hits / np.arange(1, len(ranked) + 1)
    return float((precision * ranked).sum() / max(hits[-1], 1))
