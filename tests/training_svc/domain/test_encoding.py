"""From columns to the matrix."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service_kit.errors import FailedPrecondition
from training_svc.domain.encoding import Input, as_text, encode, order_categories

TEXTS = st.lists(st.sampled_from(["AA", "UA", "", None, "Ünï", "1"]), min_size=1, max_size=40)


def number(name: str) -> Input:
    return Input(name, "FEATURE", required=True)


def category(name: str, *categories: str) -> Input:
    return Input(name, "REQUEST", True, categories, True)


def test_numbers_and_categories_become_float32_in_the_order_of_the_inputs() -> None:
    columns = {
        "carrier": np.array(["UA", "ZZ", None, ""], object),
        "delay": np.array([1.5, np.nan, np.inf, 1e300]),
    }
    matrix = encode(columns, [category("carrier", "AA", "UA"), number("delay")])
    assert matrix.dtype == np.float32
    expected = [[1, 1.5], [-1, np.nan], [np.nan, np.nan], [np.nan, np.nan]]
    np.testing.assert_array_equal(matrix, np.array(expected, np.float32))


def test_missing_objects_are_missing_numbers() -> None:
    matrix = encode({"x": np.array([1, None, 2.5], object)}, [number("x")])
    np.testing.assert_array_equal(matrix[:, 0], np.array([1, np.nan, 2.5], np.float32))


def test_text_that_is_no_category_is_refused_by_name() -> None:
    with pytest.raises(FailedPrecondition, match="the input x is") as error:
        encode({"x": np.array(["a"], object)}, [number("x")])
    assert error.value.reason == "INPUT_NOT_NUMERIC"


def test_categories_that_are_numbers_are_written_without_a_fraction() -> None:
    values = np.array([3.0, 4.0, np.nan])
    assert as_text(values).tolist() == ["3", "4", ""]
    np.testing.assert_array_equal(
        encode({"x": values}, [category("x", "4", "3")])[:, 0], np.array([1, 0, np.nan], np.float32)
    )


def test_categories_are_ordered_by_their_mean_label() -> None:
    values = np.repeat(np.array(["low", "high", "middle"], object), 100)
    labels = np.r_[np.zeros(100), np.ones(100), np.tile([0.0, 1.0], 50)]
    assert order_categories(values, labels) == ("low", "middle", "high")


def test_a_rare_category_is_pulled_to_the_mean() -> None:
    values = np.array(["a"] * 100 + ["b"] * 100 + ["rare"], object)
    labels = np.r_[np.zeros(90), np.ones(10), np.zeros(40), np.ones(60), 1.0]
    assert order_categories(values, labels) == ("a", "rare", "b")


@given(TEXTS, st.integers(0, 1000))
@settings(max_examples=100, deadline=None)
def test_every_known_category_has_a_code_of_its_own(values: list[str | None], seed: int) -> None:
    column = np.array(values, object)
    labels = np.random.default_rng(seed).integers(0, 2, len(values)).astype(float)
    categories = order_categories(column, labels)
    assert set(categories) == {value for value in values if value}
    codes = encode({"x": column}, [category("x", *categories)])[:, 0]
    for value, code in zip(values, codes, strict=True):
        assert np.isnan(code) if not value else categories[int(code)] == value


@given(TEXTS, st.permutations(range(5)))
@settings(max_examples=50, deadline=None)
def test_encoding_does_not_depend_on_the_other_rows(
    values: list[str | None], shuffled: list[int]
) -> None:
    inputs = [category("x", "AA", "1")]
    whole = encode({"x": np.array(values, object)}, inputs)
    for at in shuffled:
        if at < len(values):
            alone = encode({"x": np.array(values[at : at + 1], object)}, inputs)
            np.testing.assert_array_equal(alone, whole[at : at + 1])
