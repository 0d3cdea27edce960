"""Assignment, signatures and matrices: the pure part of the data plane."""

from __future__ import annotations

import math
from hashlib import blake2b
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dataplane.assignment import bucket
from gateway.dataplane.inputs import (
    collect,
    decode_floats,
    encode_rows,
    instance_path,
    plain_inputs,
)
from gateway.dataplane.routing import BadStateError, RoutingState, compile_state
from service_kit.errors import InvalidArgument, NotFound
from tests.gateway import tables

TEXT = st.text(st.characters(codec="utf-8"), max_size=12)


def plan(signature: Any) -> Any:
    return (
        compile_state(
            tables.state(1, tables.route("e", tables.variant("v1", 10_000, of=signature)))
        )
        .routes["e"]
        .champion.plan
    )


PLAN = plan(tables.signature())


def test_the_bucket_is_what_the_contract_says() -> None:
    digest = blake2b(b"salt:unit", digest_size=8).digest()
    assert bucket("salt", "unit") == int.from_bytes(digest, "big") % 10_000
    # Pinned: another value would move every unit of every running experiment.
    assert [bucket("s", unit) for unit in ("", "a", "ü")] == [1174, 7586, 328]


@given(TEXT, TEXT)
def test_buckets_lie_in_range(salt: str, unit: str) -> None:
    assert 0 <= bucket(salt, unit) < 10_000


@given(st.lists(st.integers(0, 100), min_size=1, max_size=5), TEXT)
def test_weights_are_contiguous_ranges_in_table_order(weights: list[int], unit: str) -> None:
    total = sum(weights) or 1
    shares = [weight * 10_000 // total for weight in weights]
    shares[-1] += 10_000 - sum(shares)
    variants = [tables.variant(f"v{at}", share) for at, share in enumerate(shares)]
    route = compile_state(tables.state(1, tables.route("e", *variants))).routes["e"]
    at, place = bucket("s", unit), 0
    while at >= shares[place]:
        at -= shares[place]
        place += 1
    assert route.assign(unit).name == f"v{place}"


@given(TEXT, st.integers(0, 10_000))
def test_a_ramp_only_moves_units_to_the_growing_variant(unit: str, share: int) -> None:
    def assigned(weight: int) -> str:
        table = tables.route(
            "e", tables.variant("v1", 10_000 - weight), tables.variant("v2", weight)
        )
        return compile_state(tables.state(1, table)).routes["e"].assign(unit).name

    if assigned(share) == "v2":
        assert assigned(10_000) == "v2"
        assert assigned(min(share + 500, 10_000)) == "v2"


@pytest.mark.parametrize(
    "route",
    [
        tables.route("e", tables.variant("v1", 9_999)),
        tables.route("e", tables.variant("v1", 10_000), champion="v9"),
        tables.route("e", tables.variant("v1", 5_000), tables.variant("v1", 5_000)),
    ],
)
def test_tables_that_make_no_sense(route: Any) -> None:
    with pytest.raises(BadStateError):
        compile_state(tables.state(1, route))


def test_an_empty_state_is_a_state() -> None:
    assert compile_state(tables.state(7)) == RoutingState(revision=7)


def test_a_version_is_found_by_id_and_by_name() -> None:
    route = compile_state(tables.state(1, tables.route("e", tables.variant("v7", 10_000)))).routes[
        "e"
    ]
    assert route.with_version("7") is route.with_version("v7") is route.champion
    with pytest.raises(NotFound, match="VERSION_NOT_SERVED"):
        route.with_version("8")


@given(
    st.dictionaries(
        st.sampled_from(["carrier", "origin", "distance", "hour"]),
        st.none() | st.booleans() | st.integers() | st.floats() | TEXT | st.lists(st.integers()),
    )
)
def test_whatever_is_let_in_makes_finite_numbers(instance: dict[str, Any]) -> None:
    found: list[InvalidArgument] = []
    columns = collect(PLAN, [instance], [3], instance_path, found)
    if found:
        assert all((error.field or "").startswith("instances[3].") for error in found)
        return
    distance = decode_floats(encode_rows(PLAN, columns, 1))[2]
    assert math.isfinite(distance)


NUMBERS = st.one_of(
    st.floats(-10, 10),
    st.integers(-(2**70), 2**70),
    st.sampled_from([1e-300, -0.0, 3.4028234663852886e38, 3.5e38, -3.5e38, 1e308, 10**400]),
    st.sampled_from([math.nan, math.inf, True, None, "1"]) | st.just(0),
)


@given(row=st.lists(NUMBERS, min_size=3, max_size=3), copies=st.sampled_from([1, 7, 40]))
def test_plain_inputs_are_what_all_others_would_become(row: list[Any], copies: int) -> None:
    """One by one, or many at once by arrays."""
    wanted = plan(tables.plain_signature(3))
    instance = dict(zip(("x0", "x1", "x2"), row, strict=True))
    instances: list[dict[str, Any]] = [{f"x{n}": float(n) for n in range(3)}] * copies + [instance]
    found: list[InvalidArgument] = []
    columns = collect(wanted, instances, range(len(instances)), instance_path, found)
    plain = plain_inputs(wanted, instances)
    if plain is None:
        assert found
        return
    assert not found
    values, matrix = plain
    assert list(map(float, values)) == [
        float(value) for each in instances for value in each.values()
    ]
    assert matrix == encode_rows(wanted, columns, len(instances))
