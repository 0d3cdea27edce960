"""Moments: parts add up to the whole, at any offset."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiment_svc.domain import Moments, grouped, merge

values = st.lists(st.floats(-1e6, 1e6), max_size=40)


@given(st.lists(values, max_size=6))
def test_merged_parts_equal_the_whole(parts: list[list[float]]) -> None:
    whole = [value for part in parts for value in part]
    merged = merge(Moments.of(part) for part in parts)
    assert merged.n == len(whole)
    if whole:
        assert merged.mean == pytest.approx(np.mean(whole), rel=1e-9, abs=1e-6)
    if len(whole) > 1:
        assert merged.variance == pytest.approx(np.var(whole, ddof=1), rel=1e-9, abs=1e-6)


def test_the_variance_survives_a_large_offset() -> None:
    parts = [[1e9 + x for x in part] for part in ([0.0, 1.0], [2.0, 3.0, 4.0])]
    assert merge(map(Moments.of, parts)).variance == pytest.approx(2.5, abs=1e-6)


def test_no_value_and_one_value_have_no_variance() -> None:
    assert Moments().variance == 0
    assert Moments.of([3.0]) == Moments(1, 3.0, 0.0)
    assert Moments.of([]) + Moments.of([3.0]) == Moments.of([3.0]) + Moments()


@given(st.lists(st.tuples(st.floats(-1e3, 1e3), st.integers(0, 3)), max_size=40))
def test_groups_equal_their_own_moments(rows: list[tuple[float, int]]) -> None:
    found = grouped(
        np.array([value for value, _ in rows], dtype=float),
        np.array([group for _, group in rows], dtype=np.int64),
    )
    assert set(found) == {group for _, group in rows}
    for group, moments in found.items():
        own = Moments.of([value for value, at in rows if at == group])
        assert moments.n == own.n
        assert moments.mean == pytest.approx(own.mean, abs=1e-9)
        assert moments.m2 == pytest.approx(own.m2, abs=1e-6)


def test_missing_values_do_not_count() -> None:
    found = grouped(np.array([1.0, np.nan, 3.0]), np.array([7, 7, 7]))
    assert found == {7: Moments.of([1.0, 3.0])}
