"""Figures over rounds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.serving.statistics import Spread, ratio, spread

FIGURES = st.lists(st.floats(1e-3, 1e6), min_size=1, max_size=9)


@given(FIGURES)
def test_a_median_lies_between_the_extremes(values: list[float]) -> None:
    found = spread(values)
    assert found.low == min(values)
    assert found.high == max(values)
    assert found.low <= found.median <= found.high


def test_there_must_be_values() -> None:
    with pytest.raises(ValueError, match="no values"):
        spread([])


@given(FIGURES, st.floats(0.1, 100))
def test_what_slows_rounds_down_alike_leaves_the_ratio(values: list[float], factor: float) -> None:
    found = ratio([each * factor for each in values], values)
    assert found is not None
    assert found.low == pytest.approx(factor)
    assert found.high == pytest.approx(factor)


def test_rounds_without_a_figure_are_left_out() -> None:
    assert ratio([10.0, None, 40.0], [5.0, 5.0, 10.0]) == Spread(3.0, 2.0, 4.0)
    assert ratio([None], [1.0]) is None
