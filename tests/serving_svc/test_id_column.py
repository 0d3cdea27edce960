"""Ids as a column, against `uuid` and the pattern that ids have."""

from __future__ import annotations

import re
from uuid import UUID

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving_svc.domain.predictions import UUID7, asked_at
from serving_svc.prediction_log import id_column

MOST_MS = 253_402_300_799_999  # the last one of the year 9999


@st.composite
def prediction_ids(draw: st.DrawFn) -> str:
    digits = f"{draw(st.integers(0, MOST_MS)):012x}"
    rest = f"{draw(st.integers(0, 2**74 - 1)):019x}"
    variant = "89ab"[int(rest[0], 16)]
    return f"{digits[:8]}-{digits[8:]}-7{rest[1:4]}-{variant}{rest[4:7]}-{rest[7:]}"


many = st.lists(prediction_ids(), max_size=30)
#: What stands in for one character of an id: often something that nearly fits.
marks = st.sampled_from("0aAfg -_\t9\0z") | st.characters(codec="ascii")


@given(many, st.integers(0, 3))
def test_ids_are_their_sixteen_bytes(names: list[str], skipped: int) -> None:
    texts = pa.array([None] * skipped + names, pa.string()).slice(skipped)
    ids = id_column.read_ids(texts)
    assert [each.tobytes() for each in ids] == [UUID(name).bytes for name in names]
    column = pa.chunked_array([id_column.column_of(ids)] * 2)
    assert (id_column.ids_of(column) == np.concatenate([ids, ids])).all()
    assert [id_column.text_of(each) for each in column.to_pylist()] == names * 2


@given(prediction_ids(), st.integers(0, 35), marks, many)
def test_what_the_pattern_refuses_is_refused(
    name: str, at: int, mark: str, more: list[str]
) -> None:
    spoilt = name[:at] + mark + name[at + 1 :]
    texts = pa.array([*more, spoilt], pa.string())
    if re.fullmatch(UUID7, spoilt):
        assert len(id_column.read_ids(texts)) == len(texts)
    else:
        with pytest.raises(ValueError, match="not a UUID"):
            id_column.read_ids(texts)


@pytest.mark.parametrize("texts", [["", "x" * 72], ["-" * 36], ["é" * 18], [" " * 36]])
def test_texts_of_another_kind_are_refused(texts: list[str]) -> None:
    with pytest.raises(ValueError, match="not a UUID"):
        id_column.read_ids(pa.array(texts))


@given(many, st.data())
def test_the_order_is_that_of_the_texts(names: list[str], data: st.DataObject) -> None:
    # Some share the first half, or all of it.
    names += [f"{each[:24]}{'0' * 12}" for each in names[:5]] + names[:2]
    names = data.draw(st.permutations(names))
    order = id_column.order_of(id_column.read_ids(pa.array(names, pa.string())))
    found = names if order is None else [names[place] for place in order]
    assert found == sorted(names)


@given(many)
def test_the_day_is_that_of_the_time_in_the_id(names: list[str]) -> None:
    days = id_column.days_of(id_column.read_ids(pa.array(names, pa.string())))
    assert [id_column.day_of(day) for day in days.tolist()] == [
        asked_at(name).date() for name in names
    ]


def test_a_day_beyond_the_calendar_is_none() -> None:
    with pytest.raises(ValueError, match="calendar"):
        id_column.day_of(4_000_000)
