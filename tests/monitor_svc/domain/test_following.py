"""Who answers, and what a monitor makes of it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor_svc.domain.following import answering, begins_to_follow, noticed
from monitor_svc.domain.monitors import Following, Monitor

NOW = datetime(2026, 1, 5, tzinfo=UTC)
MONITOR = Monitor("drift", "endpoints/late", "trainingSets/a", reference_rows=100)
OF_ONE = replace(MONITOR, reference_version="v1")


@pytest.mark.parametrize(
    ("rows", "version"),
    [
        ({}, None),
        ({"v1": 1}, "v1"),
        ({"v1": 90, "v2": 10}, "v1"),
        ({"v1": 89, "v2": 11}, None),
        ({"v1": 50, "v2": 50}, None),
    ],
)
def test_nine_in_ten_answer(rows: dict[str, int], version: str | None):
    assert answering(rows) == version


@given(st.dictionaries(st.sampled_from("abcd"), st.integers(0, 10**9)))
def test_at_most_one_version_answers_whatever_the_order(rows: dict[str, int]):
    found = answering(rows)
    assert found == answering(dict(reversed(rows.items())))
    if found:
        assert 10 * rows[found] >= 9 * sum(rows.values())


def test_the_reference_begins_to_follow_once():
    after = noticed(OF_ONE, {"v2": 100}, NOW)
    assert after.following == Following("v2", NOW)
    assert begins_to_follow(OF_ONE, after)
    tried = replace(after, following=Following("v2", NOW, 3, "away"))
    assert noticed(tried, {"v2": 100}, NOW) is tried
    assert noticed(tried, {"v1": 50, "v2": 50}, NOW) is tried
    third = noticed(tried, {"v3": 100}, NOW)
    assert third.following == Following("v3", NOW)
    assert begins_to_follow(tried, third)


def test_a_version_that_comes_back_is_followed_no_more():
    tried = replace(OF_ONE, following=Following("v2", None, 1, "no training set"))
    assert noticed(OF_ONE, {"v1": 100}, NOW) is OF_ONE
    assert noticed(tried, {"v1": 100}, NOW).following is None


def test_the_first_version_is_looked_up_or_believed():
    assert noticed(MONITOR, {"v1": 100}, NOW).following == Following("v1", NOW)
    by_hand = replace(MONITOR, reference_training_set="")
    assert noticed(by_hand, {"v1": 100}, NOW).reference_version == "v1"
    empty = replace(by_hand, reference_rows=0)
    assert noticed(empty, {"v1": 100}, NOW).following == Following("v1", NOW)
