"""Features in frames: the same as in the answer to a call, and nonsense is nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import nan

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from modelyard.dataplane.v1 import dataplane_pb2
from modelyard.features.v1 import features_pb2

from feature_svc import messages as to
from feature_svc.domain import ValueType
from feature_svc.domain.online.found import FeatureRows, Kind, Layout, Place, Status
from gateway.dataplane import feature_wire as wire
from gateway.dataplane.feature_wire import (
    Entities,
    FeatureColumn,
    columns_of_call,
    columns_of_frame,
)

TYPES = (ValueType.DOUBLE, ValueType.INT64, ValueType.STRING, ValueType.BOOL)
FINITE = st.floats(allow_nan=False)
LONGS = st.integers(-(2**63), 2**63 - 1)


@dataclass
class Part:
    """The part of a request."""

    rows: int
    entities: Entities = field(default_factory=dict)
    as_of_us: Sequence[int] = ()


def layout_of(types: Sequence[ValueType], views: int) -> Layout:
    counts = dict.fromkeys(Kind, 0)
    places = []
    for at, kind in enumerate(types):
        place = Place(f"f{at}", kind, 0, at % views)
        places.append(place._replace(at=counts[place.kind]))
        counts[place.kind] += 1
    return Layout(tuple(places))


@st.composite
def found_rows(draw: st.DrawFn, rows: int) -> FeatureRows:
    """What a read may find: missing values have no value, whatever their status."""
    layout = layout_of(draw(st.lists(st.sampled_from(TYPES), min_size=1, max_size=6)), 2)
    width = len(layout.places)
    counts = {kind: sum(place.kind is kind for place in layout.places) for kind in Kind}
    numbers = np.array([draw(FINITE) for _ in range(rows * counts[Kind.NUMBER])], np.float64)
    integers = np.array([draw(LONGS) for _ in range(rows * counts[Kind.INTEGER])], np.int64)
    views = max(place.view for place in layout.places) + 1
    found = FeatureRows(
        layout,
        numbers.reshape(rows, counts[Kind.NUMBER]),
        integers.reshape(rows, counts[Kind.INTEGER]),
        [[draw(st.text(max_size=3)) for _ in range(counts[Kind.TEXT])] for _ in range(rows)],
        None,
        np.array([draw(LONGS) for _ in range(rows * views)], np.int64).reshape(rows, views),
    )
    if draw(st.booleans()):
        drawn = [draw(st.sampled_from(tuple(Status))) for _ in range(rows * width)]
        found.statuses = np.array(drawn, np.uint8).reshape(rows, width)
        for row, order in zip(*np.nonzero(found.statuses != Status.PRESENT), strict=True):
            place = layout.places[order]
            if place.kind is Kind.NUMBER:
                found.numbers[row, place.at] = nan
            elif place.kind is Kind.INTEGER:
                found.integers[row, place.at] = 0
            else:
                list_of = list(found.texts[row])
                list_of[place.at] = ""
                found.texts = [*found.texts[:row], list_of, *found.texts[row + 1 :]]
    return found


@given(data=st.data(), sizes=st.lists(st.integers(1, 3), min_size=1, max_size=4))
def test_a_frame_says_what_a_call_says(data: st.DataObject, sizes: list[int]) -> None:
    found = data.draw(found_rows(sum(sizes)))
    parts = [Part(rows) for rows in sizes]
    frame = dataplane_pb2.ReadFeaturesResponse.FromString(
        to.rows_to_message(7, found).SerializeToString()
    )
    answer = features_pb2.GetOnlineFeaturesResponse(
        features=[to.column_to_message(each) for each in found.columns()]
    )
    assert frame.id == 7
    ends = [0, *np.cumsum(sizes).tolist()]
    by_frame, by_call = columns_of_frame(frame, parts), columns_of_call(answer, parts)
    for one, other, (start, end) in zip(by_frame, by_call, pairwise(ends), strict=True):
        assert list(one) == list(other)
        for name, column in one.items():
            assert column.values == other[name].values
            assert len(column.values) == end - start
            assert (column.times, column.text) == (other[name].times, other[name].text)
            assert told(column) == told(other[name])


def told(column: FeatureColumn) -> list[int]:
    """A status a row."""
    return list(column.statuses or bytes([wire.PRESENT]) * len(column.values))


def good() -> dataplane_pb2.ReadFeaturesResponse:
    layout = layout_of((ValueType.DOUBLE, ValueType.STRING, ValueType.INT64), 1)
    found = FeatureRows(
        layout,
        np.array([[1.5], [2.5]]),
        np.array([[3], [4]]),
        [["a"], ["b"]],
        None,
        np.array([[5], [6]]),
    )
    return to.rows_to_message(1, found)


def test_what_is_no_answer_to_the_question_is_refused() -> None:
    parts = [Part(1), Part(1)]
    first, second = columns_of_frame(good(), parts)
    assert [first[name].values for name in ("f0", "f1", "f2")] == [[1.5], ["a"], [3]]
    assert [second[name].values for name in ("f0", "f1", "f2")] == [[2.5], ["b"], [4]]
    for change in (
        {"numbers": b"12345678"},
        {"integers": b""},
        {"texts": ["a", "b", "c"]},
        {"times": b"x"},
        {"statuses": b"\x01" * 5},
        {"layout": b"\xff"},
        {"layout": b""},
    ):
        wrong = good()
        for name, value in change.items():
            wrong.ClearField(name)  # type: ignore[arg-type]
            if isinstance(value, list):
                wrong.texts.extend(value)
            else:
                setattr(wrong, name, value)
        with pytest.raises(ValueError):
            columns_of_frame(wrong, parts)
    with pytest.raises(ValueError):
        columns_of_frame(good(), [Part(3)])


@pytest.mark.parametrize(
    "places",
    [
        [{"name": "a", "kind": 1, "place": 1}],
        [{"name": "a", "kind": 1}, {"name": "b", "kind": 1}],
        [{"name": "a", "kind": 0}],
        [{"name": "a", "kind": 9}],
    ],
)
def test_a_layout_with_holes_is_refused(places: list[dict[str, int]]) -> None:
    layout = dataplane_pb2.FeatureLayout(
        features=[dataplane_pb2.FeaturePlace(**each) for each in places]  # type: ignore[arg-type]
    )
    response = dataplane_pb2.ReadFeaturesResponse(
        layout=layout.SerializeToString(), numbers=b"\0" * 8 * len(places), times=b"\0" * 8
    )
    with pytest.raises(ValueError):
        columns_of_frame(response, [Part(1)])


def test_requests_lie_one_below_the_other_in_a_message() -> None:
    parts = [
        Part(1, {"user": ["a"], "gate": [1]}),
        Part(2, {"user": [2, "b"], "gate": [2, 3]}, [0, 9]),
    ]
    kinds = wire.kinds_of(parts[1].entities)
    assert kinds == (("user", str), ("gate", int))
    request = dataplane_pb2.ReadFeaturesRequest()
    wire.fill(request, kinds, parts)
    user, gate = request.entities
    assert (user.name, list(user.strings.values)) == ("user", ["a", "2", "b"])
    assert (gate.name, list(gate.int64s.values)) == ("gate", [1, 2, 3])
    assert list(request.as_of_us) == [0, 0, 9]
