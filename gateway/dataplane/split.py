"""How a request is shared out: checks, units, and which variant answers which rows."""

from __future__ import annotations

import time
from collections.abc import Sequence

from gateway.dataplane.ask import MOST_ROWS, Ask
from gateway.dataplane.routing import Route, Variant
from gateway.problems import Violations
from service_kit.errors import InvalidArgument

#: What is predicted about happens within a month; whatever counts by event time trusts in that.
FURTHEST_AHEAD_NS = 31 * 86_400 * 10**9
_MOST_VIOLATIONS = 20

Group = tuple[Variant, list[int]]
"""A variant and the rows of the request that it answers."""


def check_ask(route: Route, ask: Ask) -> None:
    """Refuse what no variant could answer.

    Raises:
        InvalidArgument: `WRONG_COUNT` or `UNKNOWN_FIELD`; all unknown fields are named.
    """
    rows = len(ask.instances)
    if not 1 <= rows <= MOST_ROWS:
        raise InvalidArgument(
            "WRONG_COUNT", f"must be 1 to {MOST_ROWS} instances", field="instances"
        )
    if ask.event_times_us is not None and len(ask.event_times_us) != rows:
        raise InvalidArgument(
            "WRONG_COUNT", "must be as many as there are instances", field="event_times"
        )
    if ask.event_times_us is not None:
        _check_times(ask)
    if ask.matrix is not None or all(map(route.accepted.issuperset, ask.instances)):
        return
    found = [
        InvalidArgument(
            "UNKNOWN_FIELD", "there is no such input", field=ask.where(row, _shown(key))
        )
        for row, instance in enumerate(ask.instances)
        for key in instance
        if key not in route.accepted
    ]
    raise Violations(found[:_MOST_VIOLATIONS])


def _check_times(ask: Ask) -> None:
    latest = (time.time_ns() + FURTHEST_AHEAD_NS) // 1_000
    for row, when in enumerate(ask.event_times_us or ()):
        if not 0 < when <= latest:
            raise InvalidArgument(
                "OUT_OF_RANGE",
                "must lie after 1970 and at most 31 days ahead",
                field=ask.where_time(row),
            )


def units_of(route: Route, ask: Ask, ids: list[str]) -> list[str]:
    """What the traffic is split by, one a row.

    The unit that the caller names beside the rows, else the value of the routing key in each row,
    else the prediction id: `ids` itself when that is so for all.

    Raises:
        InvalidArgument: `WRONG_TYPE`.
    """
    if ask.unit:
        return [ask.unit] * len(ids)
    key = route.routing_key
    if not key or (ask.matrix is not None and not ask.instances[0]):
        return ids
    units = []
    for row, instance in enumerate(ask.instances):
        value = instance.get(key)
        if value is None or value == "":
            units.append(ids[row])
        elif type(value) in (str, int):
            units.append(str(value))
        else:
            raise InvalidArgument(
                "WRONG_TYPE", "must be a string or an integer", field=ask.where(row, key)
            )
    return ids if units == ids else units


def groups_of(route: Route, ask: Ask, ids: Sequence[str], units: Sequence[str]) -> list[Group]:
    """The variants that answer, each with its rows.

    A request in which nobody has to stay where it was is drawn as a whole: one message to one
    replica, and one version in the answer. Where an experiment runs each row is drawn, for its
    statistics count rows.

    Args:
        units: What the traffic is split by; `ids` itself when nobody has to stay where it was.

    Raises:
        NotFound: `VERSION_NOT_SERVED` when one is asked for by name.
    """
    if ask.version:
        return [(route.with_version(ask.version), list(range(len(units))))]
    if route.undivided is not None:
        return [(route.undivided, list(range(len(units))))]
    drawn = units is ids
    assign = route.draw if drawn else route.assign
    if len(units) == 1 or ask.unit or (drawn and not route.arms):
        return [(assign(units[0]), list(range(len(units))))]
    groups: dict[str, Group] = {}
    for row, variant in enumerate(map(assign, units)):
        group = groups.get(variant.name)
        if group is None:
            groups[variant.name] = variant, [row]
        else:
            group[1].append(row)
    return list(groups.values())


def _shown(name: str) -> str:
    # A field's name is the caller's text: it is named only when it could be one.
    return name if name.isidentifier() and name.isascii() and len(name) <= 64 else "?"
