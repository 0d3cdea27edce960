"""Resource names and ids."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service_kit.errors import InvalidArgument
from service_kit.names import ID_PATTERN, check_id, parse_name

PATTERN = "models/{model}/versions/{version}"
ids = st.from_regex(ID_PATTERN.removesuffix("$") + r"\Z")


@given(ids, ids)
def test_a_name_gives_its_ids(model: str, version: str) -> None:
    assert parse_name(PATTERN, f"models/{model}/versions/{version}") == {
        "model": model,
        "version": version,
    }


@given(st.text())
def test_whatever_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument) as got:
        parse_name(PATTERN, text, field="parent")
    assert (got.value.reason, got.value.field) == ("INVALID_NAME", "parent")


@pytest.mark.parametrize(
    "name",
    [
        "models/a/versions/",
        "models//versions/1",
        "models/a/versions/1\n",
        "models/a/versions/1/more",
        "models/../versions/1",
        "xmodels/a/versions/1",
        "models/a b/versions/1",
        f"models/a/versions/{'1' * 129}",
    ],
)
def test_near_misses_are_refused(name: str) -> None:
    with pytest.raises(InvalidArgument) as got:
        parse_name(PATTERN, name)
    assert name not in got.value.message


@pytest.mark.parametrize(
    "made", [hashlib.sha256().hexdigest(), "018f3c1e-7b2a-7c4d-9e5f-0123456789ab", "T_2024.01"]
)
def test_ids_that_the_suite_makes_stand_in_names(made: str) -> None:
    assert parse_name("snapshots/{snapshot}", f"snapshots/{made}") == {"snapshot": made}


@pytest.mark.parametrize("value", ["", "A", "-a", ".a", "a/b", "a\n", "é", "a" * 64])
def test_ids_that_people_choose_are_plainer(value: str) -> None:
    with pytest.raises(InvalidArgument) as got:
        check_id(value, "model_id")
    assert got.value.field == "model_id"


def test_a_good_id_comes_back() -> None:
    assert check_id("a" * 63, "model_id") == "a" * 63
