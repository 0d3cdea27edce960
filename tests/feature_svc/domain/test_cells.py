"""Cells to features: whatever the store holds, each row gets what it would get alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from feature_svc.domain import Definitions, FeatureRef, FeatureService, ValueType
from feature_svc.domain.online import layout
from feature_svc.domain.online.cells import Reply
from feature_svc.domain.online.found import FeatureColumn, Status, Value
from feature_svc.domain.online.plan import Command, Keys, compile_plan
from tests.feature_svc.examples import definitions

HOUR_US = 3_600_000_000
Hash = dict[bytes, bytes]

DOUBLES = st.one_of(st.floats(), st.none())
CELLS = {
    ValueType.DOUBLE: DOUBLES,
    ValueType.INT64: st.one_of(st.integers(-(2**63), 2**63 - 1), st.none()),
    ValueType.STRING: st.one_of(st.text(max_size=3), st.none()),
    ValueType.BOOL: st.one_of(st.booleans(), st.none()),
}
SERVICES = (
    [("delays", "mean")],
    [("delays", "count"), ("delays", "mean")],
    [("planes", "jet"), ("delays", "mean"), ("planes", "seats"), ("planes", "maker")],
    [("planes", "maker"), ("planes", "jet")],
)


@st.composite
def cell(draw: st.DrawFn, kind: ValueType) -> bytes | None:
    """What a field may hold: a value, an empty one, one of another type, or nothing."""
    other = draw(st.sampled_from(tuple(CELLS))) if draw(st.integers(0, 9)) == 0 else kind
    if draw(st.integers(0, 9)) == 0:
        return None
    value = draw(CELLS[other])
    return b"" if value is None else layout.ENCODERS[other](value)


@st.composite
def store(draw: st.DrawFn, what: Definitions) -> dict[bytes, Hash]:
    """Hashes of some entities."""
    found: dict[bytes, Hash] = {}
    for key, views in ((b"one", ("delays", "planes")), (b"two", ("delays", "planes"))):
        held = found.setdefault(key, {})
        for view in views:
            if draw(st.integers(0, 4)):
                stamp = layout.encode_time(draw(st.integers(0, 20)) * HOUR_US + 5)
                held[layout.time_field(view)] = stamp
            for feature in what.feature_views[view].features:
                value = draw(cell(feature.type))
                if value is not None:
                    held[layout.feature_field(view, feature.name)] = value
    return found


def alone(what: Definitions, ref: FeatureRef, found: Hash, moment: int) -> tuple[Value, int, int]:
    """A value, its status and its time, by the rules as they are written down."""
    view = what.feature_views[ref.view]
    stamp = found.get(layout.time_field(view.id))
    if stamp is None:
        return None, Status.NOT_FOUND, 0
    time = layout.decode_time(stamp)
    if view.ttl is not None and time < moment - view.ttl // timedelta(microseconds=1):
        return None, Status.EXPIRED, time
    feature = next(each for each in view.features if each.name == ref.feature)
    raw = found.get(layout.feature_field(view.id, ref.feature))
    value = None if raw is None else layout.DECODERS[feature.type](raw)
    return value, Status.NULL if value is None else Status.PRESENT, time


def same(one: Value, other: Value) -> bool:
    both_none = one is None and other is None
    return both_none or (one is not None and other is not None and one == other)


def cells_of(column: FeatureColumn, row: int) -> tuple[Value, int, int]:
    return column.values[row], column.statuses[row], column.times[row]


def replies_to(held: dict[bytes, Hash], commands: Sequence[Command]) -> list[Reply]:
    two = layout.key_value("2")
    return [
        [held[b"two" if two in command.key else b"one"].get(name) for name in command.fields]
        for command in commands
    ]


@given(data=st.data())
def test_rows_read_together_are_read_as_if_alone(data: st.DataObject) -> None:
    what = definitions()
    if data.draw(st.booleans()):
        views = {**what.feature_views}
        views["delays"] = replace(views["delays"], ttl=None)
        what = replace(what, feature_views=views)
    service = FeatureService(
        "s", tuple(FeatureRef(*each) for each in data.draw(st.sampled_from(SERVICES)))
    )
    what = replace(what, feature_services={"s": service})
    held = data.draw(store(what))
    rows = data.draw(st.lists(st.sampled_from("12"), min_size=0, max_size=5))
    moments = [data.draw(st.integers(0, 30)) * HOUR_US for _ in rows]
    plan = compile_plan(what, service, "")
    every: Keys = {"carrier": rows, "tail": ["N"] * len(rows), "gate": [7] * len(rows)}
    needed: Keys = {key: every[key] for key in plan.key_types}
    if "gate" in needed:
        needed = {**needed, "tail": rows}
    asked = plan.ask(needed)
    columns = plan.answer(asked, replies_to(held, asked.commands), moments).columns()
    assert [column.name for column in columns] == [ref.feature for ref in service.features]
    for ref, column in zip(service.features, columns, strict=True):
        assert len(column.values) == len(column.statuses) == len(column.times) == len(rows)
        for row, name in enumerate(rows):
            found = held[b"two" if name == "2" else b"one"]
            value, status, time = cells_of(column, row)
            expected = alone(what, ref, found, moments[row])
            assert same(value, expected[0])
            assert (status, time) == expected[1:]


def test_numbers_of_one_kind_are_not_taken_for_others() -> None:
    what = definitions()
    service = FeatureService("s", (FeatureRef("delays", "mean"),))
    plan = compile_plan(replace(what, feature_services={"s": service}), service, "")
    asked = plan.ask({"carrier": ["AA"]})
    stamp = layout.encode_time(HOUR_US)
    nine_bytes = layout.ENCODERS[ValueType.STRING]("1234567")
    assert len(nine_bytes) == 9
    for cell_, expected in (
        (nine_bytes, Status.NULL),
        (layout.ENCODERS[ValueType.DOUBLE](math.nan), Status.NULL),
        (layout.ENCODERS[ValueType.DOUBLE](math.inf), Status.PRESENT),
    ):
        (column,) = plan.answer(asked, [[cell_, stamp]], [HOUR_US]).columns()
        assert list(column.statuses) == [expected]
