"""Tables: what is taken, in which order, under which hash."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_svc.domain import (
    TableRules,
    canonical_order,
    conform,
    content_hash,
    evenly_spread,
)
from service_kit.errors import InvalidArgument
from tests.feature_svc.examples import definitions, delays, stamps

SOURCE = definitions().data_sources["delays"]
RULES = TableRules(SOURCE.fields, [each.name for each in SOURCE.fields], {"carrier"}, "known")
GOOD = delays(["AA", "B"], [1.5, None], [1, 2], [0, 1])
ROW = st.tuples(
    st.text("aé\U0001f6eb", min_size=1, max_size=3),
    st.floats(allow_infinity=False) | st.none(),
    st.integers(-(2**63), 2**63 - 1) | st.none(),
    st.integers(0, 5),
)


def put(name: str, values: Any) -> Any:
    """The good table with another column."""
    return GOOD.set_column(GOOD.column_names.index(name), name, values)


def test_columns_are_cast_and_put_in_order() -> None:
    other = pa.table(
        {
            "known": GOOD["known"].cast(pa.timestamp("ns", tz="America/New_York")),
            "count": GOOD["count"].cast(pa.int8()),
            "carrier": GOOD["carrier"].dictionary_encode(),
            "mean": pa.array([1.5, float("nan")], pa.float32()),
        }
    )
    assert conform(other, RULES).equals(GOOD)


@pytest.mark.parametrize(
    ("table", "reason", "field"),
    [
        (GOOD.drop_columns(["mean"]), "MISSING_COLUMN", "table.mean"),
        (GOOD.append_column("more", stamps([0, 1])), "UNKNOWN_COLUMN", "table.columns[4]"),
        (GOOD.append_column("mean", GOOD["mean"]), "DUPLICATE_NAME", "table.mean"),
        (put("mean", pa.array([1.0, float("-inf")])), "NOT_FINITE", "table.mean"),
        (put("mean", pa.array([2**53 + 1, 0])), "OUT_OF_RANGE", "table.mean"),
        (put("mean", pa.array(["1", "2"])), "WRONG_TYPE", "table.mean"),
        (put("count", pa.array([1.0, 2.0])), "WRONG_TYPE", "table.count"),
        (put("count", pa.array([2**63, 0], pa.uint64())), "OUT_OF_RANGE", "table.count"),
        (put("carrier", pa.array(["AA", None])), "MISSING_KEY", "table.carrier"),
        (put("carrier", pa.array(["", "AA"])), "MISSING_KEY", "table.carrier"),
        (put("known", stamps([0, None])), "MISSING_TIMESTAMP", "table.known"),
        (put("known", pa.array([1, 2], pa.timestamp("us"))), "WRONG_TYPE", "table.known"),
        (
            put("known", pa.array([-1, 2], pa.timestamp("us", tz="UTC"))),
            "OUT_OF_RANGE",
            "table.known",
        ),
        (
            put("known", pa.array([2**60, 2], pa.timestamp("s", tz="UTC"))),
            "OUT_OF_RANGE",
            "table.known",
        ),
    ],
)
def test_what_does_not_fit_is_refused_by_its_column(table: Any, reason: str, field: str) -> None:
    with pytest.raises(InvalidArgument) as error:
        conform(table, RULES)
    assert (error.value.reason, error.value.field) == (reason, field)


def made(rows: list[Any]) -> Any:
    """Rows as a table that was taken."""
    columns = zip(*rows, strict=True) if rows else [(), (), (), ()]
    return conform(delays(*columns), RULES)


def frozen(table: Any) -> str:
    """The hash of a table in canonical order."""
    return content_hash(canonical_order(table, "known"))


@given(st.lists(ROW, max_size=12), st.randoms(use_true_random=False), st.integers(0, 12))
def test_the_hash_knows_neither_order_nor_chunks(
    rows: list[Any], shuffler: random.Random, cut: int
) -> None:
    expected = frozen(made(rows))
    shuffler.shuffle(rows)
    table = made(rows)
    assert frozen(pa.concat_tables([table.slice(0, cut), table.slice(cut)])) == expected


@given(st.lists(ROW, min_size=1, max_size=6, unique=True), st.data())
def test_the_hash_knows_every_value(rows: list[Any], data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(rows) - 1))
    carrier, mean, count, hour = rows[at]
    other = data.draw(
        st.sampled_from(
            [
                (carrier + "x", mean, count, hour),
                (carrier, 7.25 if mean != 7.25 else 8.0, count, hour),
                (carrier, mean, 12345 if count != 12345 else None, hour),
                (carrier, mean, count, hour + 10),
            ]
        )
    )
    changed = [*rows[:at], other, *rows[at + 1 :]]
    assert frozen(made(changed)) != frozen(made(rows))
    assert frozen(made([*rows, rows[0]])) != frozen(made(rows))


def test_neighbouring_strings_and_nulls_do_not_run_into_each_other() -> None:
    texts = [["ab", "c"], ["a", "bc"], ["abc", ""], ["abc", None]]
    hashes = {content_hash(pa.table({"text": pa.array(each, pa.string())})) for each in texts}
    assert len(hashes) == len(texts)


@given(st.integers(0, 200), st.integers(0, 220))
def test_rows_are_spread_evenly(total: int, wanted: int) -> None:
    rows = evenly_spread(total, wanted).tolist()
    assert len(rows) == (total if wanted == 0 else min(total, wanted))
    assert rows == sorted(set(rows))
    if len(rows) > 1:
        steps = {after - before for before, after in pairwise(rows)}
        assert max(steps) - min(steps) <= 1
