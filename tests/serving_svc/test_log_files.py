"""How the files of the prediction log are laid out, and that what is in them is found."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from modelyard.events.v1 import events_pb2

from serving_svc.domain.predictions import LogFile
from serving_svc.prediction_log import PredictionFiles, columns, files
from tests.serving_svc.prediction_rows import batch, ids
from tests.serving_svc.world import V1, V2, V3

#: No number in single precision is this one.
TENTH = np.float32(0.1)


def event(names: list[str], version: str = V1, **given: Any) -> events_pb2.PredictionBatch:
    """Predictions without a unit, with an input in each precision."""
    made = batch(names, model_version=version, **given)
    with pa.ipc.open_stream(made.rows) as reader:
        table = reader.read_all().drop(["unit_id", "input.delays"])
    table = table.append_column("input.seen", pa.array([TENTH] * len(names), pa.float32()))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    made.rows = sink.getvalue().to_pybytes()
    return made


def path_of(folder: Path, file: LogFile) -> Path:
    return next(folder.glob(f"*/*/{file.file_id}.parquet"))


def metadata(folder: Path, file: LogFile) -> dict[str, Any]:
    group = pq.read_metadata(path_of(folder, file)).row_group(0)
    found = [group.column(place) for place in range(group.num_columns)]
    return {column.path_in_schema: column for column in found}


def test_fresh_files_are_packed_quickly_and_merged_ones_densely(tmp_path: Path) -> None:
    log = PredictionFiles(tmp_path)
    (one,), (two,) = log.write([event(ids(3))]), log.write([event(ids(3), V2)])
    merged = log.merge([one, two])
    for file, packed in ((one, "LZ4"), (merged, "ZSTD")):
        assert {each.compression for each in metadata(tmp_path, file).values()} == {packed}


def test_columns_are_as_small_as_what_they_hold(tmp_path: Path) -> None:
    log = PredictionFiles(tmp_path)
    (file,) = log.write([event(names := ids(5))])
    found = metadata(tmp_path, file)
    assert found["prediction_id"].physical_type == "FIXED_LEN_BYTE_ARRAY"
    assert found["prediction_id"].statistics.logical_type.type == "UUID"
    assert found["input.seen"].physical_type == "FLOAT"
    assert found["input.hour"].physical_type == "DOUBLE"
    assert found["unit_id"].statistics.null_count == 5
    without = {name for name, each in found.items() if not each.is_stats_set}
    assert without == {"input.seen", "input.hour", "input.carrier"}
    (row,) = log.find(file, names[2])
    assert row.inputs["seen"] == float(TENTH)
    assert row.unit_id == row.prediction_id == names[2]


@pytest.mark.parametrize("rows_of_a_group", [1, 4, 7])
def test_whatever_group_a_row_is_in_it_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows_of_a_group: int
) -> None:
    monkeypatch.setattr(files, "GROUP_ROWS", rows_of_a_group)
    log = PredictionFiles(tmp_path)
    names = ids(60)
    random.Random(1).shuffle(names)
    first = [
        *(event(names[:20]), event(names[20:40], V2)),
        *(event(names[:30], V3, shadow=True), event(names[10:20])),  # some come twice
    ]
    more = [event(names[40:], V3), event(names[30:40], V1, shadow=True)]
    (one,), (two,) = log.write(first), log.write(more)
    merged = log.merge([one, two])
    assert (one.rows, two.rows, merged.rows) == (70, 30, 100)
    assert (merged.min_id, merged.max_id) == (min(names), max(names))
    for at, name in enumerate(names):
        version = V1 if at < 20 else V2 if at < 40 else V3
        shadows = [V3] * (at < 30) or [V1] * (30 <= at < 40)
        found = log.find(merged, name)
        assert [row.model_version for row in found if not row.shadow] == [version]
        assert [row.model_version for row in found if row.shadow] == shadows
        with pq.ParquetFile(path_of(tmp_path, merged)) as reader:
            uuid = columns.id_column.bytes_of(name)
            read = files.groups_within(reader, uuid, uuid)
            assert reader.num_row_groups > 10
            assert len(read) <= 2  # of an id's two rows each may end a group
    assert log.find(merged, ids(1)[0]) == []
