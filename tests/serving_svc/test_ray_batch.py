"""A batch prediction with a real Ray, whose processes are killed again and again."""

from __future__ import annotations

import hashlib
import io
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from modelyard.registry.v1 import registry_pb2
from modelyard.serving.v1 import batch_pb2, batch_pb2_grpc, serving_pb2

from service_kit.channels import calling
from service_kit.errors import FailedPrecondition
from serving_svc.batch.runner import CHILD
from tests.serving_svc import models
from tests.serving_svc.test_ray import MODEL, Suite, until

ROWS, SHARD = 30_000, 500
V1 = f"{MODEL}/versions/1"


class StoringRegistry(models.FakeRegistry):
    """Keeps what is written, and gives it back in small pieces."""

    def __init__(self, artifact: bytes) -> None:
        super().__init__(artifact)
        self.kept = {self.sha256: artifact}

    def keep(self, content: bytes) -> str:
        sha256 = hashlib.sha256(content).hexdigest()
        self.kept[sha256] = content
        return f"artifacts/{sha256}"

    def ReadArtifact(  # noqa: N802
        self, request: registry_pb2.ReadArtifactRequest, _: object
    ) -> Iterator[registry_pb2.ReadArtifactResponse]:
        content = self.kept[request.name.removeprefix("artifacts/")]
        for at in range(0, len(content), 1 << 16):
            yield registry_pb2.ReadArtifactResponse(chunk=content[at : at + (1 << 16)])

    def WriteArtifact(  # noqa: N802
        self, requests: Iterator[registry_pb2.WriteArtifactRequest], _: object
    ) -> registry_pb2.Artifact:
        return registry_pb2.Artifact(name=self.keep(b"".join(each.chunk for each in requests)))

    def table(self, artifact: str) -> pa.Table:
        return pq.read_table(io.BytesIO(self.kept[artifact.removeprefix("artifacts/")]))


@pytest.fixture
def suite(
    tmp_path: Path, redis_url: str, stream_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Suite]:
    monkeypatch.setattr(models, "FakeRegistry", StoringRegistry)
    monkeypatch.setenv("MODELYARD_BATCH_SHARD_ROWS", str(SHARD))
    made = Suite(tmp_path, redis_url, stream_prefix)
    yield made
    made.stop()


def children(service: int) -> list[psutil.Process]:
    """The processes of a service that drive Ray Data."""
    found = []
    for each in psutil.Process(service).children():
        try:
            if CHILD in each.cmdline():
                found.append(each)
        except psutil.NoSuchProcess:
            continue
    return found


def rows_and_sums() -> tuple[pa.Table, np.ndarray]:
    rows = np.random.default_rng(3).normal(size=(ROWS, models.INPUTS)).astype(np.float32)
    table = pa.table({f"f{n}": rows[:, n] for n in range(models.INPUTS)})
    keys = pa.array([f"key-{n}" for n in range(ROWS)])
    return table.append_column("key", keys), (rows @ models.WEIGHTS)[:, 0]


@pytest.mark.ray
@pytest.mark.timeout(280)
def test_every_row_has_one_score_whoever_is_killed(suite: Suite) -> None:
    until(suite.answers, 40, "the service did not start")
    stub = batch_pb2_grpc.BatchPredictionServiceStub(suite.channel)
    suite.serving.CreateEndpoint(
        serving_pb2.CreateEndpointRequest(
            endpoint_id="late", endpoint=serving_pb2.Endpoint(model=MODEL)
        ),
        timeout=5,
    )
    registry = suite.registry
    assert isinstance(registry, StoringRegistry)
    table, expected = rows_and_sums()
    # One row that nobody can score.
    broken = table["f1"].to_pylist()
    broken[777] = float("inf")
    table = table.set_column(1, "f1", pa.array(broken, pa.float64()))
    content = io.BytesIO()
    pq.write_table(table, content)
    asked = batch_pb2.BatchPrediction(
        endpoint="endpoints/late",
        artifact=registry.keep(content.getvalue()),
        format="FORMAT_PARQUET",
        row_key="key",
    )
    request = batch_pb2.CreateBatchPredictionRequest(batch_prediction=asked, request_id="one")
    with pytest.raises(FailedPrecondition, match="NO_TRAFFIC_TABLE"), calling("serving"):
        stub.CreateBatchPrediction(request, timeout=5)
    request.batch_prediction.model_version = V1
    made = stub.CreateBatchPrediction(request, timeout=5)
    assert stub.CreateBatchPrediction(request, timeout=5).name == made.name
    get = batch_pb2.GetBatchPredictionRequest(name=made.name)

    def at_work() -> bool:
        found = stub.GetBatchPrediction(get, timeout=5)
        assert found.state != batch_pb2.BatchPrediction.STATE_FAILED, found.reason
        return bool(found.done_count) and bool(children(suite.service.pid))

    until(at_work, 60, "no shard was done")
    before = stub.GetBatchPrediction(get, timeout=5).done_count
    os.kill(children(suite.service.pid)[0].pid, signal.SIGKILL)
    until(at_work, 60, "the work did not go on without its child")
    suite.service.kill()
    suite.service.wait()
    suite.service = suite.start_service()
    until(suite.answers, 40, "the service did not start again")

    def ended() -> bool:
        wait = batch_pb2.WaitBatchPredictionRequest(name=made.name)
        wait.timeout.FromSeconds(5)
        return bool(stub.WaitBatchPrediction(wait, timeout=10).end_time.seconds)

    until(ended, 120, "the work did not end")
    found = stub.GetBatchPrediction(get, timeout=5)
    assert found.state == batch_pb2.BatchPrediction.STATE_SUCCEEDED, found.reason
    assert 0 < before < ROWS
    assert (found.row_count, found.done_count, found.refused_count) == (ROWS, ROWS, 1)
    output = registry.table(found.output)
    assert output.column_names == ["row", "key", "late", "error"]
    assert output["row"].to_pylist() == list(range(ROWS))
    assert output["key"].to_pylist() == table["key"].to_pylist()
    scores = output["late"].to_numpy(zero_copy_only=False)
    sound = np.arange(ROWS) != 777
    np.testing.assert_allclose(scores[sound], expected[sound], rtol=1e-4, atol=1e-5)
    assert output["late"][777].as_py() is None
    assert registry.table(found.errors).to_pylist() == [
        {"row": 777, "key": "key-777", "field": "f1", "reason": "NOT_FINITE"}
    ]
    until(lambda: not list(suite.settings.home.glob("batches/*")), 10, "shards were left")


@pytest.mark.ray
def test_a_batch_prediction_can_be_stopped(suite: Suite) -> None:
    until(suite.answers, 40, "the service did not start")
    stub = batch_pb2_grpc.BatchPredictionServiceStub(suite.channel)
    suite.serving.CreateEndpoint(
        serving_pb2.CreateEndpointRequest(
            endpoint_id="late", endpoint=serving_pb2.Endpoint(model=MODEL)
        ),
        timeout=5,
    )
    registry = suite.registry
    assert isinstance(registry, StoringRegistry)
    content = io.BytesIO()
    pq.write_table(rows_and_sums()[0], content)
    made = stub.CreateBatchPrediction(
        batch_pb2.CreateBatchPredictionRequest(
            batch_prediction=batch_pb2.BatchPrediction(
                endpoint="endpoints/late",
                model_version=V1,
                artifact=registry.keep(content.getvalue()),
                format="FORMAT_PARQUET",
            )
        ),
        timeout=5,
    )
    until(lambda: children(suite.service.pid), 40, "the work did not begin")
    cancel = batch_pb2.CancelBatchPredictionRequest(name=made.name, request_id="stop")
    stopped = stub.CancelBatchPrediction(cancel, timeout=5)
    assert stopped.state == batch_pb2.BatchPrediction.STATE_CANCELLED
    assert stub.CancelBatchPrediction(cancel, timeout=5) == stopped
    until(lambda: not children(suite.service.pid), 20, "the child goes on")
    until(lambda: not list(suite.settings.home.glob("batches/*")), 10, "shards were left")
    found = stub.GetBatchPrediction(batch_pb2.GetBatchPredictionRequest(name=made.name), timeout=5)
    assert (found.state, found.output) == (stopped.state, "")
