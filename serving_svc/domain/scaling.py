"""How many replicas a version should have: a pure rule over what its replicas report.

The rule is that of the Kubernetes horizontal autoscaler: the present count times the ratio of load
to target, rounded up, left alone inside a band around the target, and stabilized over a window. A
window is crossed only when every look in it asks for more (or fewer), and then by the least that
all of them ask for, so that one odd look never moves anything.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from serving_svc.domain.deployments import Replica


@dataclass(frozen=True, slots=True)
class ScalingPolicy:
    """When to have more replicas, and when fewer.

    Attributes:
        target_rows: Rows under way or waiting that one replica should have.
        target_queue_us: Microseconds that requests should wait in a replica's queue.
        band: Share around the target inside which nothing changes.
        up_after_s: Seconds that the load must be too high.
        down_after_s: Seconds that it must be too low.
    """

    target_rows: float = 64.0
    target_queue_us: float = 20_000.0
    band: float = 0.1
    up_after_s: float = 4.0
    down_after_s: float = 60.0


@dataclass(frozen=True, slots=True)
class Bounds:
    """Fewest and most replicas."""

    least: int
    most: int

    def clamp(self, count: int) -> int:
        """The count within the bounds."""
        return max(self.least, min(count, self.most))


@dataclass(frozen=True, slots=True)
class Load:
    """What the replicas of a version report together.

    Attributes:
        replicas: How many of them take requests.
        rows: Mean of rows under way or waiting, a replica.
        queue_us: Mean microseconds in the queue.
    """

    replicas: int
    rows: float
    queue_us: float


@dataclass(frozen=True, slots=True)
class Look:
    """What one look at the load asked for, at a monotonic time in seconds."""

    at: float
    count: int


@dataclass(frozen=True, slots=True)
class Scaling:
    """The looks that still count for a version, and when they began."""

    since: float
    looks: tuple[Look, ...] = ()


def loads(replicas: Collection[Replica]) -> dict[str, Load]:
    """The load of each version, over the replicas that take requests."""
    groups: dict[str, list[Replica]] = {}
    for each in replicas:
        if not each.draining:
            groups.setdefault(each.model_version, []).append(each)
    return {
        version: Load(
            len(group),
            sum(each.in_flight_rows for each in group) / len(group),
            sum(each.queue_us for each in group) / len(group),
        )
        for version, group in groups.items()
    }


def asked_for(policy: ScalingPolicy, load: Load, count: int) -> int:
    """How many replicas a load asks for.

    What is meant to run is not always up: while it comes up, those that are up bear the load of
    all, so that the ratio is taken of them.

    >>> asked_for(ScalingPolicy(target_rows=10), Load(2, 25.0, 0.0), 2)
    5
    """
    ratio = max(load.rows / policy.target_rows, load.queue_us / policy.target_queue_us)
    if not load.replicas or abs(ratio - 1.0) <= policy.band:
        return count
    return max(1, math.ceil(load.replicas * ratio))


def decide(
    policy: ScalingPolicy, bounds: Bounds, count: int, before: Scaling, load: Load, now: float
) -> tuple[int, Scaling]:
    """The count that a version should have now, and what to remember for the next look.

    Args:
        policy: When to change.
        bounds: Between which counts.
        count: The count that it should have had so far.
        before: What the last look left.
        load: What its replicas report.
        now: Monotonic seconds.
    """
    bounded = bounds.clamp(count)
    if bounded != count:
        return bounded, Scaling(now)
    look = Look(now, bounds.clamp(asked_for(policy, load, count)))
    longest = max(policy.up_after_s, policy.down_after_s)
    looks = (*(each for each in before.looks if each.at >= now - longest), look)
    history = replace(before, looks=looks)
    up = _least_asked(history, now, policy.up_after_s, count, +1)
    down = _least_asked(history, now, policy.down_after_s, count, -1)
    decided = up if up != count else down
    return (decided, history) if decided == count else (decided, Scaling(now))


def _least_asked(history: Scaling, now: float, window: float, count: int, sign: int) -> int:
    """The smallest change in one direction that every look of a window asks for."""
    if now - history.since < window:
        return count
    counts: Sequence[int] = [each.count for each in history.looks if each.at >= now - window]
    nearest = min(counts) if sign > 0 else max(counts)
    return nearest if (nearest - count) * sign > 0 else count
