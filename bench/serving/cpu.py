"""CPU time of a tree of processes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import psutil

Group = Callable[[psutil.Process], str]
Strays = Callable[[], Sequence[psutil.Process]]
"""Processes of a server that are nobody's children."""


@dataclass(frozen=True)
class Used:
    """CPU time of one process so far.

    Attributes:
        group: What the process belongs to.
        parent: Pid of its parent.
        seconds: Its own and that of its children that have ended and were waited for.
    """

    group: str
    parent: int
    seconds: float


Snapshot = Mapping[tuple[int, float], Used]


def one_group(_: psutil.Process) -> str:
    """All processes in one group."""
    return "server"


def nobody() -> Sequence[psutil.Process]:
    """No processes beside the tree."""
    return ()


def snapshot(root: int, group: Group = one_group, strays: Strays = nobody) -> Snapshot:
    """CPU time of a process, all its descendants and its strays, by pid and time of start."""
    found: dict[tuple[int, float], Used] = {}
    parent = psutil.Process(root)
    for each in (parent, *parent.children(recursive=True), *strays()):
        try:
            times = each.cpu_times()
            seconds = times.user + times.system + times.children_user + times.children_system
            found[each.pid, each.create_time()] = Used(group(each), each.ppid(), seconds)
        except psutil.NoSuchProcess:
            continue  # its parent has its time now
    return found


def spent(before: Snapshot, after: Snapshot) -> dict[str, float]:
    """CPU seconds by group between two snapshots.

    The time of a process that ended in between is its parent's now, so what it had used before is
    taken off there.
    """
    seconds: dict[str, float] = {}
    for key, used in after.items():
        earlier = before[key].seconds if key in before else 0.0
        seconds[used.group] = seconds.get(used.group, 0.0) + used.seconds - earlier
    parents = {pid: used.parent for (pid, _), used in before.items()}
    groups = {pid: used.group for (pid, _), used in after.items()}
    for key, used in before.items():
        if key not in after:
            heir = used.parent
            while heir not in groups and heir in parents:
                heir = parents[heir]
            group = groups.get(heir, used.group)
            seconds[group] = seconds.get(group, 0.0) - used.seconds
    return seconds
