"""Rows to matrices, inputs to shards, shards to outputs."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from modelyard.data.v1 import data_pb2
from modelyard.features.v1 import features_pb2, features_pb2_grpc

from service_kit.channels import Peers
from service_kit.errors import DomainError
from service_kit.server import ServiceServer
from service_kit.settings import ServiceSettings
from serving_svc.batch.encode import FLOAT32_MAX, Problems, encode
from serving_svc.batch.scoring import OnlineStore, ShardScorer
from serving_svc.batch.shards import ROW, ShardFolder
from serving_svc.batch.sources import Sources, _csv, _parquet
from serving_svc.domain.batches import Batch, Features
from tests.serving_svc.world import NOW

NUMBER, LABEL = data_pb2.InputField.KIND_NUMERIC, data_pb2.InputField.KIND_CATEGORICAL
LOOKED_UP = data_pb2.InputField.SOURCE_FEATURE
CATEGORIES = ["AA", "UA"]

numbers = st.one_of(
    st.none(), st.integers(-(2**53), 2**53), st.floats(), st.sampled_from([1e39, -1e300])
)
labels = st.one_of(st.none(), st.sampled_from(["", "AA", "UA", "ZZ"]))


def of_number(value: float | None, required: bool) -> tuple[float, str]:
    """What one number becomes, and what is wrong with it."""
    if value is None or math.isnan(value):
        return math.nan, "FIELD_MISSING" if required else ""
    if math.isinf(value):
        return math.nan, "NOT_FINITE"
    if abs(value) > FLOAT32_MAX:
        return math.nan, "OUT_OF_RANGE"
    return float(np.float32(value)), ""


def of_label(value: str | None, required: bool) -> tuple[float, str]:
    if not value:
        return math.nan, "FIELD_MISSING" if required else ""
    return float(CATEGORIES.index(value)) if value in CATEGORIES else -1.0, ""


@given(st.lists(st.tuples(numbers, labels), max_size=30), st.booleans(), st.booleans())
def test_columns_become_what_each_row_alone_would(
    rows: list[tuple[Any, Any]], number_required: bool, label_required: bool
) -> None:
    fields = [
        data_pb2.InputField(name="n", kind=NUMBER, required=number_required),
        data_pb2.InputField(name="c", kind=LABEL, required=label_required, categories=CATEGORIES),
    ]
    columns = {
        "n": pa.array([None if n is None else float(n) for n, _ in rows], pa.float64()),
        "c": pa.array([c for _, c in rows], pa.string()),
    }
    problems = Problems(len(rows))
    matrix = encode(fields, columns, problems)
    for place, (number, label) in enumerate(rows):
        (x, wrong_x) = of_number(number, number_required)
        (y, wrong_y) = of_label(label, label_required)
        reason = wrong_x or wrong_y
        assert problems.reasons[place] == reason
        assert problems.fields[place] == ("n" if wrong_x else "c" if wrong_y else "")
        if not reason:
            np.testing.assert_array_equal(matrix[place], np.array([x, y], dtype=np.float32))


@pytest.mark.parametrize(
    ("column", "values", "reasons"),
    [
        (
            pa.array(["1.5", " ", None, "1e999"]),
            [1.5, None, None, None],
            ["", "WRONG_TYPE", "", "NOT_FINITE"],
        ),
        (pa.array(["1", "2"]).dictionary_encode(), [1.0, 2.0], ["", ""]),
        (pa.array([True, False]), [1.0, 0.0], ["", ""]),
        (pa.array([[1.0], None]), [None, None], ["WRONG_TYPE", ""]),
        (pa.nulls(2), [None, None], ["", ""]),
    ],
)  # fmt: skip
def test_numbers_of_all_kinds(column: pa.Array, values: list[Any], reasons: list[str]) -> None:
    problems = Problems(len(column))
    matrix = encode([data_pb2.InputField(name="n", kind=NUMBER)], {"n": column}, problems)
    assert problems.reasons.tolist() == reasons
    for found, wanted, reason in zip(matrix[:, 0].tolist(), values, reasons, strict=True):
        assert reason or (math.isnan(found) if wanted is None else found == wanted)


def test_a_category_is_a_text() -> None:
    problems = Problems(2)
    field = data_pb2.InputField(name="c", kind=LABEL, categories=CATEGORIES)
    encode([field], {"c": pa.array([1, None])}, problems)
    assert problems.reasons.tolist() == ["WRONG_TYPE", ""]


@settings(deadline=None)
@given(st.lists(st.integers(0, 40), max_size=12), st.integers(1, 25))
def test_shards_are_the_rows_cut_anew(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], rows_a_shard: int
) -> None:
    folder = ShardFolder(tmp_path_factory.mktemp("shards"))
    ends = np.cumsum([0, *sizes]).tolist()
    batches = [
        pa.RecordBatch.from_pydict({"x": list(range(a, b))}, pa.schema([("x", pa.int64())]))
        for a, b in pairwise(ends)
    ]
    assert folder.filled() is None
    rows, shards = folder.fill(batches, rows_a_shard, lambda: False) or (0, 0)
    assert (rows, shards) == folder.filled() == (ends[-1], -(-ends[-1] // rows_a_shard))
    tables = [pq.read_table(folder.input(shard)) for shard in range(shards)]
    assert all(table.num_rows == rows_a_shard for table in tables[:-1])
    found = [(row["x"], row[ROW]) for table in tables for row in table.to_pylist()]
    assert found == [(n, n) for n in range(rows)]


def test_filling_ends_when_asked_to(tmp_path: Path) -> None:
    folder = ShardFolder(tmp_path)
    batch = pa.RecordBatch.from_pydict({"x": [1, 2, 3]})
    assert folder.fill([batch], 1, lambda: True) is None
    assert folder.filled() is None


def signature(**given: Any) -> data_pb2.Signature:
    fields = [
        data_pb2.InputField(name="n", kind=NUMBER, required=True),
        data_pb2.InputField(name="f", kind=NUMBER, source=LOOKED_UP),
    ]
    return data_pb2.Signature(inputs=fields, outputs=["y"], **given)


def scorer(folder: ShardFolder, **given: Any) -> ShardScorer:
    made = {"signature": signature(), "score": lambda matrix: matrix[:, :1] * 2, "read": None}
    return ShardScorer(folder=folder, row_key="id", **made | given)


def shard(tmp_path: Path, **columns: Any) -> ShardFolder:
    folder = ShardFolder(tmp_path)
    folder.fill([pa.RecordBatch.from_pydict(columns)], 100, lambda: False)
    return folder


def test_a_shard_is_scored_once(tmp_path: Path) -> None:
    folder = shard(tmp_path, id=["a", "b", "c"], n=[1.0, None, 2.0], f=[0.0, 0.0, 0.0])
    used = scorer(folder, score=lambda matrix: np.where(matrix[:, :1] == 2, np.inf, 10))
    assert used.run(0) == (3, 2)
    output = pq.read_table(folder.output(0)).to_pylist()
    assert output == [
        {"row": 0, "id": "a", "y": 10.0, "error": None},
        {"row": 1, "id": "b", "y": None, "error": "FIELD_MISSING"},
        {"row": 2, "id": "c", "y": None, "error": "OUTPUT_NOT_FINITE"},
    ]
    assert pq.read_table(folder.errors(0)).to_pylist() == [
        {"row": 1, "id": "b", "field": "n", "reason": "FIELD_MISSING"},
        {"row": 2, "id": "c", "field": "y", "reason": "OUTPUT_NOT_FINITE"},
    ]

    def never(_: Any) -> Any:
        raise AssertionError("a shard that is done is not done again")

    assert scorer(folder, score=never).run(0) == (3, 2)
    assert folder.done(1) == {0: (3, 2)}


def test_a_shard_of_rows_that_nobody_can_score(tmp_path: Path) -> None:
    folder = shard(tmp_path, id=["a"], n=pa.array([None], pa.float64()), f=[0.0])
    assert scorer(folder).run(0) == (1, 1)
    assert pq.read_table(folder.output(0)).column_names == ["row", "id", "y", "error"]


class Features_(features_pb2_grpc.FeatureServiceServicer):  # noqa: N801
    """Knows the feature of every key but 3, and one snapshot of five rows."""

    calls = 0

    def GetOnlineFeatures(  # noqa: N802
        self, request: features_pb2.GetOnlineFeaturesRequest, _: object
    ) -> features_pb2.GetOnlineFeaturesResponse:
        self.calls += 1
        keys = request.entities[0].int64s.values
        column = data_pb2.Column(name="f", doubles={"values": [key / 2 for key in keys]})
        column.statuses = bytes(3 if key == 3 else 1 for key in keys)
        return features_pb2.GetOnlineFeaturesResponse(features=[column])

    def ReadSnapshot(  # noqa: N802
        self, request: features_pb2.ReadSnapshotRequest, _: object
    ) -> Iterator[features_pb2.TableChunk]:
        for at in range(0, 5, 2):
            yield chunk(pa.table({"n": list(range(5))[at : at + 2]}))

    def GetSnapshot(  # noqa: N802
        self, request: features_pb2.GetSnapshotRequest, _: object
    ) -> features_pb2.Snapshot:
        return features_pb2.Snapshot(name=request.name, row_count=5)

    def CreateTrainingSet(  # noqa: N802
        self, request: features_pb2.CreateTrainingSetRequest, _: object
    ) -> features_pb2.TrainingSet:
        assert request.request_id
        lost = request.feature_service.endswith("lossy")
        return features_pb2.TrainingSet(name="trainingSets/ab", row_count=4 if lost else 5)

    def ReadTrainingSet(  # noqa: N802
        self, request: features_pb2.ReadTrainingSetRequest, _: object
    ) -> Iterator[features_pb2.TableChunk]:
        yield chunk(pa.table({"n": list(range(5)), "f": [0.5] * 5}))


def chunk(table: pa.Table) -> features_pb2.TableChunk:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return features_pb2.TableChunk(arrow_ipc=sink.getvalue())


def settings_of(**peers: str) -> ServiceSettings:
    return ServiceSettings(service="serving", service_token="a-token-for-tests", peers=peers)


@pytest.fixture
def peers() -> Iterator[Peers]:
    add = features_pb2_grpc.add_FeatureServiceServicer_to_server
    with (
        ServiceServer(settings_of(), [(add, Features_())]) as server,
        Peers(settings_of(features=server.address)) as made,
    ):
        yield made


def test_features_are_looked_up_for_the_rows_that_have_a_key(tmp_path: Path, peers: Peers) -> None:
    keys = pa.array([4, None, 3], pa.int64())
    folder = shard(tmp_path, id=["a", "b", "c"], n=[1.0, 1.0, 1.0], key=keys)
    looked_up = signature(entity_keys=["key"], feature_service="featureServices/s")
    used = scorer(
        folder,
        signature=looked_up,
        read=OnlineStore(peers).read,
        score=lambda matrix: np.nan_to_num(matrix[:, 1:], nan=-1.0),
    )
    assert used.run(0) == (3, 1)
    assert pq.read_table(folder.output(0))["y"].to_pylist() == [2.0, None, -1.0]
    errors = pq.read_table(folder.errors(0)).to_pylist()
    assert [(row["id"], row["field"], row["reason"]) for row in errors] == [
        ("b", "key", "FIELD_MISSING")
    ]


def test_the_store_is_asked_for_some_thousand_rows_at_a_time(peers: Peers) -> None:
    found = OnlineStore(peers).read("featureServices/s", {"key": pa.array(range(4_500))})
    assert found["f"].to_pylist() == [None if key == 3 else key / 2 for key in range(4_500)]


def rows(peers: Peers, tmp_path: Path, needed: set[str], service: str = "s") -> pa.Table:
    features = Features.POINT_IN_TIME if "f" in needed else Features.GIVEN
    batch = Batch("b", "late", "", f"snapshots/{'ab' * 32}", NOW, features=features)
    found = Sources(peers).rows(batch, f"featureServices/{service}", needed, tmp_path)
    return pa.Table.from_batches(found)


def test_rows_of_a_snapshot(peers: Peers, tmp_path: Path) -> None:
    assert rows(peers, tmp_path, {"n"})["n"].to_pylist() == [0, 1, 2, 3, 4]
    assert rows(peers, tmp_path, {"n", "f"})["f"].to_pylist() == [0.5] * 5


@pytest.mark.parametrize(
    ("needed", "service", "reason"),
    [({"n", "x"}, "s", "COLUMN_MISSING"), ({"n", "f"}, "lossy", "ROWS_DIFFER")],
)
def test_a_snapshot_that_does_not_do(
    peers: Peers, tmp_path: Path, needed: set[str], service: str, reason: str
) -> None:
    with pytest.raises(DomainError) as caught:
        rows(peers, tmp_path, needed, service)
    assert caught.value.reason == reason


def test_csv_stays_the_text_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes('\ufeffid,n\r\n007,1.5\r\n"a,\nb",\r\n'.encode())
    found = pa.Table.from_batches(_csv(path)).to_pylist()
    assert found == [{"id": "007", "n": "1.5"}, {"id": "a,\nb", "n": None}]


@pytest.mark.parametrize("content", [b"id,n\n1\n", b"id,n\n\xff\xfe,1\n", b""])
def test_csv_that_is_none(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    with pytest.raises(DomainError) as caught:
        list(_csv(path))
    assert caught.value.reason == "INPUT_MALFORMED"


def test_parquet_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(b"PAR1 and nothing more")
    with pytest.raises(DomainError) as caught:
        list(_parquet(path))
    assert caught.value.reason == "INPUT_MALFORMED"
