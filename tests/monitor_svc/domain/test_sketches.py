from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from monitor_svc.domain.profiles import Labels, Numbers, build_profile, quantile_edges
from monitor_svc.domain.sketches import (
    KEPT_NEW_CATEGORIES,
    CategoricalSketch,
    NumericSketch,
    merge,
    numeric_by_group,
)

numbers = st.lists(
    st.one_of(st.floats(-1e6, 1e6), st.just(float("nan")), st.sampled_from([0.0, 1.0])),
    min_size=1,
    max_size=60,
)


def _one(values: list[float], edges: np.ndarray) -> NumericSketch:
    groups = np.zeros(len(values), dtype=np.int64)
    return numeric_by_group(np.array(values), groups, 1, edges)[0]


@given(numbers, numbers, st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20, unique=True))
def test_numeric_merge_equals_whole(first: list[float], second: list[float], cuts: list[float]):
    edges = np.sort(np.array(cuts))
    merged = merge(_one(first, edges), _one(second, edges))
    whole = _one(first + second, edges)
    assert isinstance(merged, NumericSketch)
    assert merged.cells.tolist() == whole.cells.tolist()
    assert (merged.missing, merged.minimum, merged.maximum) == (
        whole.missing,
        whole.minimum,
        whole.maximum,
    )
    assert np.isclose(merged.mean, whole.mean, atol=1e-6)
    assert np.isclose(merged.m2, whole.m2, rtol=1e-6, atol=1e-3)


@given(st.data())
def test_groups_equal_sketches_of_their_rows(data: st.DataObject):
    values = data.draw(numbers)
    groups = np.array(
        data.draw(st.lists(st.integers(0, 3), min_size=len(values), max_size=len(values)))
    )
    edges = np.array([-10.0, 0.0, 0.5, 100.0])
    together = numeric_by_group(np.array(values), groups, 4, edges)
    for group, sketch in enumerate(together):
        alone = _one([v for v, g in zip(values, groups, strict=True) if g == group], edges)
        assert sketch.cells.tolist() == alone.cells.tolist()
        assert sketch.missing == alone.missing
        assert np.isclose(sketch.m2, alone.m2, rtol=1e-9, atol=1e-6)


labels = st.lists(st.sampled_from(["", "a", "b", "c", "unseen", "later"]), max_size=40)


@given(labels, labels)
def test_categorical_merge_equals_whole(first: list[str], second: list[str]):
    profile = build_profile(Labels(["a", "a", "b", "c", ""]), 5)

    def one(values: list[str]) -> CategoricalSketch:
        sketch = profile.sketches(Labels(values), np.zeros(len(values), dtype=np.int64), 1)[0]
        assert isinstance(sketch, CategoricalSketch)
        return sketch

    merged, whole = one(first).merge(one(second)), one(first + second)
    assert merged.cells.tolist() == whole.cells.tolist()
    assert merged.missing == whole.missing
    assert dict(merged.new) == dict(whole.new)


def test_names_of_new_categories_stay_bounded():
    profile = build_profile(Labels(["a"]), 1)
    many = Labels([f"id{i}" for i in range(1_000)])
    sketch = profile.sketches(many, np.zeros(1_000, dtype=np.int64), 1)[0]
    assert isinstance(sketch, CategoricalSketch)
    assert len(sketch.new) == KEPT_NEW_CATEGORIES
    assert int(sketch.cells[-1]) == 1_000


def test_rare_categories_are_known_and_not_new():
    profile = build_profile(Labels([f"c{i}" for i in range(400)]), 400)
    sketch = profile.sketches(Labels(["c399", "other"]), np.zeros(2, dtype=np.int64), 1)[0]
    assert sketch.cells[-2:].sum() + sketch.cells[:-2].sum() == 2
    assert int(sketch.cells[-1]) == 1


@given(st.lists(st.sampled_from([0.0, 1.0, 1.5, 2.0, 7.0]), min_size=1, max_size=200))
def test_edges_are_increasing_whatever_ties(values: list[float]):
    column = np.array(values)
    edges = quantile_edges(column)
    assert np.all(np.diff(edges) > 0)
    sketch = _one(values, edges)
    # Nothing of the reference itself is out of its range.
    assert sketch.cells[0] == sketch.cells[-1] == 0
    below = _one([column.min() - 1, column.max() + 1], edges)
    assert below.cells[0] == below.cells[-1] == 1


def test_missing_column_has_a_profile():
    profile = build_profile(Numbers(np.full(3, np.nan)), 3)
    assert profile.sketch.missing == 3
