"""Rules of the prediction log: what an id tells, and which files become one."""

from __future__ import annotations

import uuid
from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service_kit.ids import uuid7_str
from serving_svc.domain.predictions import (
    MERGE_FILES,
    LogFile,
    asked_at,
    is_prediction_id,
    to_merge,
)

TODAY = date(2026, 3, 2)
YESTERDAY = TODAY - timedelta(days=1)

files = st.builds(
    LogFile,
    file_id=st.uuids().map(str),
    endpoint_id=st.sampled_from(["a", "b"]),
    day=st.sampled_from([TODAY, YESTERDAY]),
    shape=st.sampled_from(["x", "y"]),
    min_id=st.uuids().map(str),
    max_id=st.just("f"),
    rows=st.integers(1, 400),
    size=st.just(1),
)


def test_an_id_tells_when_it_was_asked_for() -> None:
    before = datetime.now(UTC) - timedelta(milliseconds=1)
    asked = asked_at(uuid7_str())
    assert before <= asked <= datetime.now(UTC)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "7",
        "6366d7cc-766d-4203-b62f-289b70db0715",
        "01A1FD51-7732-7008-96B9-C24127940DEC",
        "01a1fd51-7732-707f-9f2c-582a802a4a80\n",
        "f" * 36,
    ],
)
def test_what_is_no_id_of_a_prediction(text: str) -> None:
    assert not is_prediction_id(text)
    with pytest.raises(ValueError, match="UUID"):
        asked_at(text)


def test_a_time_beyond_the_calendar_is_no_time() -> None:
    with pytest.raises(ValueError, match="calendar"):
        asked_at("ffffffff-ffff-7000-8000-000000000000")


@given(st.lists(files, unique_by=lambda each: each.file_id, max_size=80))
def test_only_what_belongs_together_is_merged(given_files: list[LogFile]) -> None:
    groups = to_merge(given_files, TODAY, least=4, most_rows=300)
    taken = [each.file_id for group in groups for each in group]
    assert len(taken) == len(set(taken))
    for group in groups:
        assert len(group) > 1
        assert len({(each.endpoint_id, each.day, each.shape) for each in group}) == 1
        assert all(each.rows < 300 for each in group)
        # The last file of a group may be the one that makes it large enough.
        assert sum(each.rows for each in group[:-1]) < 300


@given(st.lists(files, unique_by=lambda each: each.file_id, max_size=60))
def test_merging_comes_to_an_end_and_keeps_every_row(given_files: list[LogFile]) -> None:
    held = list(given_files)
    for _ in range(len(given_files) + 1):
        groups = to_merge(held, TODAY, least=4, most_rows=300)
        if not groups:
            break
        gone = {each.file_id for group in groups for each in group}
        held = [each for each in held if each.file_id not in gone] + [
            LogFile(
                str(uuid.uuid4()), group[0].endpoint_id, group[0].day, group[0].shape,
                group[0].min_id, "f", sum(each.rows for each in group), 1,
            )
            for group in groups
        ]  # fmt: skip
    assert not to_merge(held, TODAY, least=4, most_rows=300)
    assert sum(each.rows for each in held) == sum(each.rows for each in given_files)
    small = [each for each in held if each.day == YESTERDAY and each.rows < 300]
    kinds = {(each.endpoint_id, each.shape) for each in small}
    assert len(small) == len(kinds)


def test_a_row_is_written_again_once_for_every_factor_of_files() -> None:
    held: list[LogFile] = []
    written = 0
    for number in range(MERGE_FILES**2):
        held.append(LogFile(str(number), "a", TODAY, "x", f"{number:09}", "f", 1, 1))
        for group in to_merge(held, TODAY):
            rows = sum(each.rows for each in group)
            written += rows
            held = [each for each in held if each not in group]
            held.append(
                LogFile(f"m{number}-{rows}", "a", TODAY, "x", group[0].min_id, "f", rows, 1)
            )
        for group in to_merge(held, TODAY):
            rows = sum(each.rows for each in group)
            written += rows
            held = [each for each in held if each not in group]
            held.append(
                LogFile(f"n{number}-{rows}", "a", TODAY, "x", group[0].min_id, "f", rows, 1)
            )
    assert [each.rows for each in held] == [MERGE_FILES**2]
    assert written == 2 * MERGE_FILES**2
