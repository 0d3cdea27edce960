"""Files of histories and frozen tables."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pyarrow as pa
import pytest

from feature_svc.history import UNUSED_FOR, ParquetHistory
from service_kit.errors import Internal
from tests.feature_svc.examples import D, at, definitions, delays, fields

SOURCE = definitions().data_sources["delays"]
ROWS = delays(["AA", "B", "AA"], [1.0, None, 2.0], [1, None, 3], [3, 1, 2])


@pytest.fixture
def history(tmp_path: Path) -> ParquetHistory:
    return ParquetHistory(tmp_path)


def test_rows_come_back_in_the_order_in_which_they_came(history: ParquetHistory) -> None:
    first = history.write("delays", ROWS, "known")
    second = history.write("delays", ROWS.slice(0, 1), "known")
    assert (first.row_count, first.first_time, first.last_time) == (3, at(1), at(3))
    found = history.read("delays", [second.file, first.file], SOURCE.fields)
    assert found.equals(pa.concat_tables([ROWS.slice(0, 1), ROWS]))
    merged = history.merge("delays", [second.file, first.file], SOURCE.fields)
    assert history.read("delays", [merged], SOURCE.fields).equals(found)


def test_a_part_is_named_by_its_rows_and_their_source(history: ParquetHistory) -> None:
    whole = pa.concat_tables([ROWS.slice(0, 1), ROWS.slice(1)])
    assert history.write("delays", ROWS, "known") == history.write("delays", whole, "known")
    assert history.write("other", ROWS, "known").content != (
        history.write("delays", ROWS, "known").content
    )


def test_a_column_that_came_later_is_null_in_older_files(history: ParquetHistory) -> None:
    part = history.write("delays", ROWS, "known")
    found = history.read("delays", [part.file], [*SOURCE.fields[:1], *fields(median=D)])
    assert found["median"].to_pylist() == [None] * 3
    assert found["carrier"].to_pylist() == ["AA", "B", "AA"]


def test_damage_is_found_and_not_told_in_detail(history: ParquetHistory, tmp_path: Path) -> None:
    part = history.write("delays", ROWS, "known")
    path = tmp_path / "history" / "delays" / f"{part.file}.parquet"
    content = bytearray(path.read_bytes())
    content[20] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(Internal, match="HISTORY_DAMAGED"):
        history.read("delays", [part.file], SOURCE.fields)
    with pytest.raises(Internal, match="HISTORY_DAMAGED"):
        history.frozen("0" * 64)


def test_files_that_nothing_names_go_after_an_hour(history: ParquetHistory) -> None:
    parts = [history.write("delays", ROWS.slice(n), "known") for n in range(3)]
    paths = [history._part("delays", part.file) for part in parts]
    long_ago = time.time() - UNUSED_FOR.total_seconds() - 10
    for path in paths[:2]:
        os.utime(path, (long_ago, long_ago))
    history.sweep("delays", {parts[0].file})
    assert [path.exists() for path in paths] == [True, False, True]
    os.utime(paths[0], (long_ago, long_ago))
    # Writing the rows of a file again keeps it, as its record is about to name it.
    history.write("delays", ROWS, "known")
    history.sweep("delays", set())
    assert paths[0].exists()
