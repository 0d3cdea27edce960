"""Which version answers, and whether the reference has to follow it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime

from monitor_svc.domain.monitors import Following, Monitor

#: Share of a window's predictions from which on a version is the one that answers.
ANSWERING_SHARE = 0.9


def answering(rows: Mapping[str, int]) -> str | None:
    """The version that answered nine in ten predictions; None while the traffic is split."""
    least = ANSWERING_SHARE * sum(rows.values())
    found = [version for version, count in rows.items() if count and count >= least]
    return found[0] if found else None


def noticed(monitor: Monitor, rows: Mapping[str, int], now: datetime) -> Monitor:
    """The monitor after a window with so many answered predictions by version.

    The very same object when nothing changes. Rows that a person has given as the reference are
    taken to be those of the version that answers first: no lineage could tell.
    """
    version = answering(rows)
    if version is None:
        return monitor
    if version == monitor.reference_version:
        return replace(monitor, following=None) if monitor.following else monitor
    if monitor.following and monitor.following.version == version:
        return monitor
    by_hand = monitor.reference_rows and not monitor.reference_training_set
    if by_hand and not monitor.reference_version:
        return replace(monitor, reference_version=version)
    return replace(monitor, following=Following(version, due=now))


def begins_to_follow(before: Monitor, after: Monitor) -> bool:
    """Whether there is a version to be followed now that was not before."""
    return after.following is not None and after.following is not before.following
