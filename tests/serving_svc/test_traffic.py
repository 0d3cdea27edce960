"""Traffic tables, as pure values."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service_kit.errors import FailedPrecondition, InvalidArgument
from serving_svc.domain import Change, TrafficTable, Variant, traffic

NOW = datetime(2013, 4, 1, tzinfo=UTC)
CHANGE = Change("keys/me", "because", NOW)
MODEL = "models/delay"


def version(n: int) -> str:
    return f"{MODEL}/versions/{n}"


FIRST = traffic.switched(None, version(1), "salt", CHANGE)
versions = st.integers(1, 9).map(version)


@st.composite
def splits(draw: st.DrawFn) -> list[Variant]:
    """Variants whose weights add up to 100."""
    count = draw(st.integers(1, 5))
    cuts = sorted(draw(st.lists(st.integers(0, 10_000), min_size=count - 1, max_size=count - 1)))
    edges = [0, *cuts, 10_000]
    shares = [(b - a) / 100 for a, b in pairwise(edges)]
    return [Variant("", version(n + 1), share) for n, share in enumerate(shares)]


@given(splits())
def test_shares_that_add_up_to_100_are_taken_and_add_up_in_basis_points(
    variants: list[Variant],
) -> None:
    named = traffic.check_variants(variants, MODEL)
    assert sum(variant.weight_bp for variant in named) == 10_000
    assert all(variant.name for variant in named)


@given(splits(), st.integers(1, 10_000))
def test_any_other_sum_is_refused(variants: list[Variant], missing: int) -> None:
    least = min(variants, key=lambda each: each.weight)
    others = [each for each in variants if each is not least]
    wrong = Variant("", least.model_version, min(100.0, least.weight + missing / 100))
    if wrong.weight == least.weight:
        return
    with pytest.raises(InvalidArgument, match="WEIGHTS_NOT_100"):
        traffic.check_variants([*others, wrong], MODEL)


@pytest.mark.parametrize(
    ("variants", "reason", "field"),
    [
        ([], "NO_VARIANTS", "variants"),
        ([Variant("", "models/other/versions/1", 100)], "WRONG_MODEL", "variants[0].model_version"),
        ([Variant("", "v1", 100)], "INVALID_NAME", "variants[0].model_version"),
        ([Variant("", version(1), 100.001)], "INVALID_WEIGHT", "variants[0].weight"),
        ([Variant("", version(1), 33.333)], "INVALID_WEIGHT", "variants[0].weight"),
        ([Variant("", version(1), float("nan"))], "INVALID_WEIGHT", "variants[0].weight"),
        ([Variant("", version(1), 100, -1)], "INVALID_WEIGHT", "variants[0].shadow"),
        ([Variant("A b", version(1), 100)], "INVALID_ID", "variants[0].variant"),
        (
            [Variant("a", version(1), 50), Variant("b", version(1), 50)],
            "DUPLICATE_VARIANT",
            "variants",
        ),
    ],
)
def test_what_is_wrong_is_named(variants: list[Variant], reason: str, field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        traffic.check_variants(variants, MODEL)
    assert (caught.value.reason, caught.value.field) == (reason, field)


def test_overrides_name_variants() -> None:
    variants = [Variant("v1", version(1), 100)]
    assert traffic.check_overrides({"unit": "v1"}, variants) == {"unit": "v1"}
    with pytest.raises(InvalidArgument, match="UNKNOWN_VARIANT"):
        traffic.check_overrides({"unit": "v2"}, variants)


def ramp(current: TrafficTable, weight: float) -> TrafficTable:
    return traffic.ramped(
        FIRST, current, version(2), weight=weight, shadow=0, experiment="e", change=CHANGE
    )


@given(st.lists(st.integers(0, 10_000).map(lambda bp: bp / 100), min_size=1, max_size=6))
def test_a_ramp_keeps_the_salt_and_goes_back_to_where_it_began(weights: list[float]) -> None:
    table = FIRST
    for weight in weights:
        table = ramp(table, weight)
        assert sum(variant.weight_bp for variant in table.variants) == 10_000
        assert (table.salt, table.champion, table.last_good) == ("salt", "v1", 1)
    back = traffic.restored(table, FIRST, CHANGE)
    assert (back.variants, back.generation) == (FIRST.variants, len(weights) + 2)
    promoted = traffic.switched(table, version(2), "", CHANGE)
    assert (promoted.last_good, promoted.salt, promoted.steady) == (1, "salt", True)


@given(st.lists(versions, min_size=1, max_size=8))
def test_going_back_again_and_again_ends_at_the_first_table(deployed: list[str]) -> None:
    history = {1: FIRST}
    current = FIRST
    for each in deployed:
        current = traffic.switched(current, each, "", CHANGE)
        history[current.generation] = current
    for expected in [FIRST.champion_version, *deployed][-2::-1]:
        good = history[traffic.last_good_of(current)]
        current = traffic.restored(current, good, CHANGE)
        history[current.generation] = current
        assert current.champion_version == expected
    with pytest.raises(FailedPrecondition, match="NO_GOOD_TABLE"):
        traffic.last_good_of(current)


def test_the_champion_stays_while_it_has_a_share() -> None:
    some = [Variant("v1", version(1), 10), Variant("v2", version(2), 90)]
    assert traffic.split(FIRST, some, {}, CHANGE).champion == "v1"
    none = [Variant("v1", version(1), 0), Variant("v2", version(2), 100)]
    assert traffic.split(FIRST, none, {}, CHANGE).champion == "v2"
