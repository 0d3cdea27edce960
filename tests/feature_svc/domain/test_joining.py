"""The point-in-time join, against its definition and against Feast."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from feature_svc.domain import latest_rows, point_in_time_rows

KEYS = ("carrier", "gate")
KEY = st.tuples(st.sampled_from(["AA", "B", ""]) | st.none(), st.integers(-1, 1) | st.none())
ROWS = st.lists(st.tuples(KEY, st.integers(0, 8)), max_size=25)
_MICROSECOND = timedelta(microseconds=1)
Row = tuple[tuple[str | None, int | None], int]


def table(rows: list[Row], time: str = "known") -> Any:
    """Rows as a table of several chunks."""
    whole = pa.table(
        {
            "carrier": pa.array([key[0] for key, _ in rows], pa.string()),
            "gate": pa.array([key[1] for key, _ in rows], pa.int64()),
            time: pa.array([at for _, at in rows], pa.timestamp("us", tz="UTC")),
        }
    )
    return pa.concat_tables([whole.slice(0, 3), whole.slice(3)])


def joined(labels: list[Row], history: list[Row], ttl: int | None = None) -> list[int]:
    """The join by the function under test."""
    return point_in_time_rows(
        table(labels, "when"),
        table(history),
        keys=KEYS,
        label_time="when",
        history_time="known",
        ttl=None if ttl is None else ttl * _MICROSECOND,
    ).tolist()


def by_definition(label: Row, history: list[Row], ttl: int | None) -> int:
    """The newest row of the label's entity at the label's time, of equal ones the last."""
    key, when = label
    known = [
        (at, position)
        for position, (other, at) in enumerate(history)
        if other == key and None not in key and at <= when
    ]
    if not known:
        return -1
    at, position = max(known)
    return position if ttl is None or when - at <= ttl else -1


@given(ROWS, ROWS, st.integers(1, 4) | st.none())
def test_the_join_is_what_its_definition_says(
    labels: list[Row], history: list[Row], ttl: int | None
) -> None:
    expected = [by_definition(label, history, ttl) for label in labels]
    assert joined(labels, history, ttl) == expected


@given(ROWS, ROWS)
def test_no_row_knows_the_future(labels: list[Row], history: list[Row]) -> None:
    for (key, when), at in zip(labels, joined(labels, history), strict=True):
        if at >= 0:
            assert history[at][0] == key
            assert history[at][1] <= when


@given(ROWS, ROWS, ROWS)
def test_what_comes_later_changes_nothing(
    labels: list[Row], history: list[Row], future: list[Row]
) -> None:
    last = max((when for _, when in labels), default=0)
    later = [(key, at + last + 1) for key, at in future]
    assert joined(labels, history + later) == joined(labels, history)


@given(ROWS)
def test_the_latest_row_of_each_entity_is_found(history: list[Row]) -> None:
    newest: dict[Any, tuple[int, int]] = {}
    for position, (key, at) in enumerate(history):
        if None not in key:
            newest[key] = max(newest.get(key, (0, 0)), (at, position))
    expected = sorted(position for _, position in newest.values())
    assert latest_rows(table(history), keys=KEYS, time="known").tolist() == expected


def test_tables_without_chunks_are_empty() -> None:
    none = pa.Table.from_batches([], table([]).schema)
    assert none.column("carrier").num_chunks == 0
    assert latest_rows(none, keys=KEYS, time="known").tolist() == []
    assert (
        point_in_time_rows(
            none, none, keys=KEYS, label_time="known", history_time="known", ttl=None
        ).tolist()
        == []
    )


def test_a_row_of_the_same_instant_is_known_and_one_at_the_end_of_its_life_holds() -> None:
    key = ("AA", 1)
    assert joined([(key, 5)], [(key, 5)]) == [0]
    assert joined([(key, 5)], [(key, 2)], ttl=3) == [0]
    assert joined([(key, 5)], [(key, 2)], ttl=2) == [-1]
