"""The rows of a batch prediction, a few thousand at a time."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from modelyard.features.v1 import features_pb2, features_pb2_grpc
from pyarrow import csv as arrow_csv

from service_kit.channels import Peers, calling
from service_kit.errors import FailedPrecondition
from serving_svc.artifacts import fetch
from serving_svc.batch.shards import ROW
from serving_svc.domain.batches import Batch, Features, Format

LONG_CALL_S = 600.0
_READ_ROWS = 10_000


class Sources:
    """Reads snapshots and training sets from the feature service, files from the registry."""

    def __init__(self, peers: Peers) -> None:
        self._peers = peers

    def rows(
        self, batch: Batch, feature_service: str, needed: Iterable[str], folder: Path
    ) -> Iterator[pa.RecordBatch]:
        """The rows of a batch's input, all of one schema.

        Args:
            needed: Columns that must be there.
            folder: Where a stored file is kept while it is read.

        Raises FailedPrecondition (`COLUMN_MISSING`, `COLUMN_TAKEN`, `INPUT_MALFORMED`,
        `ROWS_DIFFER`) and what the peers raise.
        """
        checked = False
        for part in self._read(batch, feature_service, folder):
            if not checked:
                _check(part.schema.names, needed)
                checked = True
            yield part

    def _read(self, batch: Batch, feature_service: str, folder: Path) -> Iterator[pa.RecordBatch]:
        if batch.of_snapshot and batch.features is Features.POINT_IN_TIME:
            return self._joined(batch, feature_service)
        if batch.of_snapshot:
            request = features_pb2.ReadSnapshotRequest(name=batch.source)
            with calling("features"):
                return _chunks(self._features().ReadSnapshot(request, timeout=LONG_CALL_S))
        sha256 = batch.source.removeprefix("artifacts/")
        path = fetch(self._peers.channel("registry"), sha256, folder)
        return _parquet(path) if batch.format is Format.PARQUET else _csv(path)

    def _joined(self, batch: Batch, feature_service: str) -> Iterator[pa.RecordBatch]:
        stub = self._features()
        request = features_pb2.CreateTrainingSetRequest(
            snapshot=batch.source,
            feature_service=feature_service,
            request_id=f"batch-{batch.batch_id}",
        )
        with calling("features"):
            made = stub.CreateTrainingSet(request, timeout=LONG_CALL_S)
            snapshot = stub.GetSnapshot(features_pb2.GetSnapshotRequest(name=batch.source))
        if made.row_count != snapshot.row_count:
            raise FailedPrecondition("ROWS_DIFFER", "the join has not one row for each row")
        read = features_pb2.ReadTrainingSetRequest(name=made.name)
        with calling("features"):
            return _chunks(stub.ReadTrainingSet(read, timeout=LONG_CALL_S))

    def _features(self) -> features_pb2_grpc.FeatureServiceStub:
        return features_pb2_grpc.FeatureServiceStub(self._peers.channel("features"))


def _chunks(stream: Iterable[features_pb2.TableChunk]) -> Iterator[pa.RecordBatch]:
    with calling("features"):
        for chunk in stream:
            with pa.ipc.open_stream(chunk.arrow_ipc) as reader:
                yield from reader


def _parquet(path: Path) -> Iterator[pa.RecordBatch]:
    try:
        # Buffered ahead, the whole file would stay in memory until its end.
        with pq.ParquetFile(path, pre_buffer=False) as reader:
            yield from reader.iter_batches(_READ_ROWS)
    except (pa.ArrowException, OSError) as error:
        raise _malformed("Parquet") from error


def _csv(path: Path) -> Iterator[pa.RecordBatch]:
    # Every value stays the text it is: whether it is a number is asked row by row.
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            names = next(csv.reader(io.StringIO(file.readline())), [])
        reader = arrow_csv.open_csv(
            path,
            parse_options=arrow_csv.ParseOptions(newlines_in_values=True),
            convert_options=arrow_csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()),
                strings_can_be_null=True,
                null_values=[""],
            ),
        )
        yield from reader
    except (pa.ArrowException, UnicodeDecodeError, csv.Error) as error:
        raise _malformed("CSV") from error


def _check(present: list[str], needed: Iterable[str]) -> None:
    missing = sorted(set(needed) - set(present))
    if missing:
        raise FailedPrecondition(
            "COLUMN_MISSING", f"the input has no column {missing[0]}", column=missing[0]
        )
    if ROW in present or len(set(present)) < len(present):
        raise FailedPrecondition("COLUMN_TAKEN", f"a column is named {ROW}, or two are alike")


def _malformed(kind: str) -> FailedPrecondition:
    return FailedPrecondition("INPUT_MALFORMED", f"the file is not sound {kind}")
