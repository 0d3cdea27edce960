"""Allocation: stable slots, contiguous ranges, uniform and independent."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from experiment_svc.domain import SLOTS, assign, bucket, upper_edges
from service_kit.errors import InvalidArgument

weights = st.lists(st.floats(0, 1e6), min_size=1, max_size=6).filter(lambda w: sum(w) > 0)


def test_slots_never_change() -> None:
    # These numbers are a promise to the gateway and the SDK: users must not move.
    assert [bucket("salt", unit) for unit in ("", "a", "user-42", "Zürich")] == [
        490,
        3978,
        7274,
        3027,
    ]


def test_slots_are_uniform_and_independent_between_salts() -> None:
    units = [f"unit-{index}" for index in range(20_000)]
    one = np.array([bucket("one", unit) for unit in units])
    two = np.array([bucket("two", unit) for unit in units])
    assert stats.kstest(one / SLOTS, "uniform").pvalue > 1e-3
    table = np.histogram2d(one, two, bins=4)[0]
    assert stats.chi2_contingency(table).pvalue > 1e-3


@given(weights)
def test_every_slot_has_an_arm_and_ranges_are_in_order(parts: list[float]) -> None:
    edges = upper_edges(parts)
    assert edges[-1] == SLOTS
    assert list(edges) == sorted(edges)
    assert 0 <= assign(0, edges) <= assign(SLOTS - 1, edges) < len(parts)


@given(weights)
def test_arms_hold_their_shares(parts: list[float]) -> None:
    sizes = np.diff([0, *upper_edges(parts)])
    assert np.abs(sizes / SLOTS - np.array(parts) / sum(parts)).max() <= 1 / SLOTS + 1e-9


def test_a_ramp_only_adds_units_to_the_treatment() -> None:
    slots = [bucket("ramp", str(unit)) for unit in range(5_000)]
    before: set[int] = set()
    for share in (0.05, 0.25, 0.5, 1.0):
        edges = upper_edges([1 - share, share])
        treated = {unit for unit, slot in enumerate(slots) if assign(slot, edges) == 1}
        assert before <= treated
        before = treated


@pytest.mark.parametrize("bad", [[], [0.0, 0.0], [1.0, -1.0], [float("nan")], [float("inf")]])
def test_bad_weights_are_refused(bad: list[float]) -> None:
    with pytest.raises(InvalidArgument) as raised:
        upper_edges(bad)
    assert raised.value.field == "weights"


def test_a_slot_outside_the_table_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="outside"):
        assign(SLOTS, upper_edges([1]))
