"""Scores shards, in a process that Ray places; nothing here knows Ray."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from modelyard.data.v1 import data_pb2
from modelyard.features.v1 import features_pb2, features_pb2_grpc

from service_kit.channels import Peers, calling
from service_kit.errors import DeadlineExceeded, ResourceExhausted, Unavailable
from serving_svc.batch.encode import MISSING, Matrix, Problems, encode
from serving_svc.batch.shards import ROW, ShardFolder, write_at_once
from serving_svc.replica import load_model
from serving_svc.replica_config import ReplicaConfig

READ_ROWS = 2_000
READ_TIMEOUT_S = 30.0
PASSING = (DeadlineExceeded, ResourceExhausted, Unavailable)
TRIES = 5

Columns = dict[str, pa.Array]
Score = Callable[[Matrix], Matrix]
Read = Callable[[str, Columns], Columns]
"""Features of a feature service for columns of entity keys."""


@dataclass(frozen=True, slots=True)
class ShardTask:
    """How shards are scored; plain values.

    Attributes:
        replica: What a `ReplicaConfig` is made of; its peers name the feature service as well.
        signature: The serialized signature of the version, in hex.
        folder: Of the shards; every machine of the cluster sees it.
        online: Whether features are read from the online store.
        row_key: Column that names a row, or empty.
    """

    replica: dict[str, Any]
    signature: str
    folder: str
    online: bool
    row_key: str


class ShardScorer:
    """Scores shard after shard with one model.

    Args:
        score: Scores a matrix, as a runtime does.
        read: Reads the online store.
    """

    def __init__(
        self,
        signature: data_pb2.Signature,
        folder: ShardFolder,
        score: Score,
        read: Read | None,
        row_key: str = "",
    ) -> None:
        self._signature = signature
        self._folder = folder
        self._score = score
        self._read = read
        self._row_key = row_key

    @classmethod
    def of(cls, task: ShardTask) -> ShardScorer:
        """Loads the model of a task; raises what keeps it from being loaded."""
        config = ReplicaConfig(**task.replica)
        settings = config.settings()
        signature = data_pb2.Signature.FromString(bytes.fromhex(task.signature))
        score = load_model(config, settings)
        read = OnlineStore(Peers(settings)).read if task.online else None
        return cls(signature, ShardFolder(Path(task.folder)), score, read, task.row_key)

    def run(self, shard: int) -> tuple[int, int]:
        """Score a shard unless it is done; gives rows and refused rows."""
        if self._folder.output(shard).is_file():
            return self._folder.counts(shard)
        table = pq.read_table(self._folder.input(shard)).combine_chunks()
        columns = {name: _whole(table[name]) for name in table.column_names}
        problems = Problems(table.num_rows)
        if self._read is not None:
            columns |= self._looked_up(columns, problems)
        matrix = encode(self._signature.inputs, columns, problems)
        outputs = self._scored(matrix, problems)
        names = self._names(columns)
        refused = ~problems.sound
        write_at_once(self._folder.errors(shard), _errors(names, problems, refused))
        write_at_once(self._folder.output(shard), self._table(names, outputs, problems))
        return table.num_rows, int(refused.sum())

    def _looked_up(self, columns: Columns, problems: Problems) -> Columns:
        for key in self._signature.entity_keys:
            missing = columns[key].is_null().to_numpy(zero_copy_only=False)
            problems.add(missing, key, MISSING)
        assert self._read is not None
        places = np.flatnonzero(problems.sound)
        keys = {key: columns[key].take(pa.array(places)) for key in self._signature.entity_keys}
        found = self._read(self._signature.feature_service, keys) if len(places) else {}
        back = np.full(len(problems.reasons), -1, dtype=np.int64)
        back[places] = np.arange(len(places))
        where = pa.array(back, mask=back < 0)
        wanted = [
            field.name
            for field in self._signature.inputs
            if field.source == data_pb2.InputField.SOURCE_FEATURE
        ]
        rows = len(back)
        return {
            name: found[name].take(where) if name in found else pa.nulls(rows) for name in wanted
        }

    def _scored(self, matrix: Matrix, problems: Problems) -> Matrix:
        sound = problems.sound
        outputs = np.full((len(matrix), len(self._signature.outputs)), np.nan, dtype=np.float32)
        if sound.any():
            outputs[sound] = self._score(np.ascontiguousarray(matrix[sound]))
        for place, name in enumerate(self._signature.outputs):
            problems.add(~np.isfinite(outputs[:, place]), name, "OUTPUT_NOT_FINITE")
        return outputs

    def _names(self, columns: Columns) -> Columns:
        names = {ROW: columns[ROW]}
        if self._row_key:
            names[self._row_key] = columns[self._row_key]
        return names

    def _table(self, names: Columns, outputs: Matrix, problems: Problems) -> pa.Table:
        refused = ~problems.sound
        scores = {
            name: pa.array(outputs[:, place], pa.float32(), mask=refused)
            for place, name in enumerate(self._signature.outputs)
        }
        reasons = pa.array(problems.reasons, pa.string(), mask=~refused)
        return pa.table(names | scores | {"error": reasons})


class OnlineStore:
    """Reads the online store, some thousand rows a call; what may pass is tried again."""

    def __init__(self, peers: Peers) -> None:
        self._peers = peers

    def read(self, service: str, keys: Columns) -> Columns:
        """Features by name, null where a value is not present; raises what the store raises."""
        rows = len(next(iter(keys.values())))
        parts = [
            self._patiently(
                service, {key: column.slice(at, READ_ROWS) for key, column in keys.items()}
            )
            for at in range(0, rows, READ_ROWS)
        ]
        return {name: pa.concat_arrays([part[name] for part in parts]) for name in parts[0]}

    def _patiently(self, service: str, keys: Columns) -> Columns:
        for attempt in range(1, TRIES + 1):
            try:
                return self._ask(service, keys)
            except PASSING:
                if attempt == TRIES:
                    raise
                time.sleep(0.2 * 2**attempt)
        raise AssertionError("unreachable")

    def _ask(self, service: str, keys: Columns) -> Columns:
        request = features_pb2.GetOnlineFeaturesRequest(feature_service=service)
        for name, values in keys.items():
            column = request.entities.add(name=name)
            if pa.types.is_integer(values.type):
                column.int64s.values.extend(values.to_pylist())
            else:
                column.strings.values.extend(values.cast(pa.string()).to_pylist())
        stub = features_pb2_grpc.FeatureServiceStub(self._peers.channel("features"))
        with calling("features"):
            answer = stub.GetOnlineFeatures(request, timeout=READ_TIMEOUT_S)
        return {column.name: _array(column) for column in answer.features}


def _array(column: data_pb2.Column) -> pa.Array:
    kind = column.WhichOneof("values")
    types = {"doubles": pa.float64(), "int64s": pa.int64(), "strings": pa.string()}
    values = getattr(column, kind).values
    absent = None
    if column.statuses:
        statuses = np.frombuffer(column.statuses, dtype=np.uint8)
        absent = statuses != data_pb2.VALUE_STATUS_PRESENT
    return pa.array(np.array(values, dtype=object), types[kind], mask=absent)


def _errors(names: Columns, problems: Problems, refused: Any) -> pa.Table:
    places = pa.array(np.flatnonzero(refused))
    found = {name: column.take(places) for name, column in names.items()}
    found["field"] = pa.array(problems.fields[refused], pa.string())
    found["reason"] = pa.array(problems.reasons[refused], pa.string())
    return pa.table(found)


def _whole(column: pa.ChunkedArray) -> pa.Array:
    if column.num_chunks == 1:
        return column.chunk(0)
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
