"""A replica without Ray: real models, real connections, a fake registry and a fake serving."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from modelyard.dataplane.v1 import dataplane_pb2, dataplane_pb2_grpc
from modelyard.registry.v1 import registry_pb2_grpc

from service_kit.channels import open_channel
from service_kit.errors import FailedPrecondition, NotFound
from service_kit.frames import MOST_HELLO_BYTES, FrameProtocol, connect, hello
from service_kit.server import ServiceServer
from service_kit.settings import ServiceSettings
from serving_svc.artifacts import fetch
from serving_svc.batching import MicroBatcher, Sink
from serving_svc.replica import Replica, ReplicaConfig
from serving_svc.runtimes import Matrix, ModelUnusableError, make_runtime, warmed
from tests.serving_svc import models

TOKEN = "a-token-for-tests"
VERSION = "models/delay/versions/1"


class Serving(dataplane_pb2_grpc.DataPlaneServiceServicer):
    """Takes reports."""

    def __init__(self) -> None:
        self.reports: list[dataplane_pb2.ReportReplicaRequest] = []

    def ReportReplica(  # noqa: N802
        self, request: dataplane_pb2.ReportReplicaRequest, _: object
    ) -> dataplane_pb2.ReportReplicaResponse:
        self.reports.append(request)
        return dataplane_pb2.ReportReplicaResponse(interval_ms=100)


class Surroundings:
    """The services that a replica needs."""

    def __init__(self, home: Path) -> None:
        self.registry, self.serving = models.FakeRegistry(models.onnx_linear()), Serving()
        self.settings = ServiceSettings(service="test", service_token=TOKEN, home=home)
        self.server = ServiceServer(
            self.settings,
            [
                (registry_pb2_grpc.add_RegistryServiceServicer_to_server, self.registry),
                (dataplane_pb2_grpc.add_DataPlaneServiceServicer_to_server, self.serving),
            ],
        )
        self.address = self.server.start()
        self.config = ReplicaConfig(
            model_version=VERSION,
            runtime="onnx",
            artifact=self.registry.sha256,
            inputs=models.INPUTS,
            outputs=1,
            home=str(home),
            peers={"registry": self.address, "serving": self.address},
        )


@pytest.fixture
def around(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Surroundings]:
    monkeypatch.setenv("MODELYARD_SERVICE_TOKEN", TOKEN)
    made = Surroundings(tmp_path)
    yield made
    made.server.stop(grace=0.1)


@pytest.fixture
def replica(around: Surroundings) -> Iterator[Replica]:
    made = Replica(around.config.to_json())
    yield made
    made.stop()


def item(number: int, rows: Matrix) -> dataplane_pb2.InferItem:
    return dataplane_pb2.InferItem(id=number, rows=len(rows), inputs=rows.tobytes())


def floats(result: dataplane_pb2.InferItemResult) -> list[float]:
    return [float(value) for value in np.frombuffer(result.outputs, "<f4")]


class Peer(FrameProtocol):
    """A connection to a replica, with what came over it."""

    def __init__(self) -> None:
        super().__init__()
        self.frames: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.trust()

    def received(self, message: bytes) -> None:
        self.frames.put_nowait(message)

    def closed(self) -> None:
        self.frames.put_nowait(None)

    async def answers(self) -> dict[int, dataplane_pb2.InferItemResult]:
        frame = await asyncio.wait_for(self.frames.get(), 5)
        assert frame is not None, "the replica hung up"
        results = dataplane_pb2.InferStreamResponse.FromString(frame).results
        return {result.id: result for result in results}

    def ask(self, items: list[dataplane_pb2.InferItem]) -> None:
        self.send(dataplane_pb2.InferStreamRequest(items=items).SerializeToString())


async def reach(address: str, settings: ServiceSettings) -> tuple[Peer, str]:
    """A connection, and the reason why it is of no use."""
    peer = Peer()
    await connect(address, lambda: peer, settings)
    peer.send(hello(settings))
    welcome = await asyncio.wait_for(peer.frames.get(), 5)
    assert welcome is not None
    return peer, dataplane_pb2.Welcome.FromString(welcome).error_reason


async def ask(
    address: str, settings: ServiceSettings, messages: list[list[dataplane_pb2.InferItem]]
) -> dict[int, dataplane_pb2.InferItemResult]:
    """Send messages on one connection; gives the answers by id."""
    peer, reason = await reach(address, settings)
    assert reason == ""
    answers: dict[int, dataplane_pb2.InferItemResult] = {}
    for items in messages:
        peer.ask(items)
    while len(answers) < sum(map(len, messages)):
        answers |= await peer.answers()
    peer.transport.close()
    await asyncio.wait_for(peer.frames.get(), 5)
    await asyncio.sleep(0)
    return answers


def test_requests_are_answered_by_their_ids(around: Surroundings, replica: Replica) -> None:
    rng = np.random.default_rng(1)
    matrices = {n: rng.normal(size=(n % 4 + 1, 3)).astype(np.float32) for n in range(1, 60)}
    messages = [[item(n, matrices[n]) for n in range(at, at + 7) if n in matrices] for at in (1, 8)]
    messages += [[item(n, matrices[n])] for n in range(15, 60)]
    answers = asyncio.run(ask(replica.address, around.settings, messages))
    assert answers.keys() == matrices.keys()
    for number, matrix in matrices.items():
        expected = (matrix @ models.WEIGHTS).ravel()
        assert floats(answers[number]) == pytest.approx(expected.tolist(), abs=1e-5)


def test_bad_requests_are_refused_one_by_one(around: Surroundings, replica: Replica) -> None:
    good = np.ones((1, 3), dtype=np.float32)
    huge = np.full((1, 3), 3e38, dtype=np.float32)
    bad = [
        dataplane_pb2.InferItem(id=2, rows=2, inputs=good.tobytes()),
        dataplane_pb2.InferItem(id=3, rows=0),
        item(4, huge),
    ]
    answers = asyncio.run(ask(replica.address, around.settings, [[item(1, good), *bad]]))
    assert floats(answers[1]) == [2.0]
    reasons = {number: answers[number].error_reason for number in (2, 3, 4)}
    assert reasons == {2: "INVALID_SHAPE", 3: "INVALID_ROWS", 4: "OUTPUT_NOT_FINITE"}


def test_a_caller_without_the_token_is_refused(around: Surroundings, replica: Replica) -> None:
    wrong = ServiceSettings(service="test", service_token="wrong")

    async def knock() -> tuple[str, bytes | None]:
        peer, reason = await reach(replica.address, wrong)
        peer.ask([item(1, np.ones((1, 3), dtype=np.float32))])
        last = await asyncio.wait_for(peer.frames.get(), 5)
        await asyncio.sleep(0)  # its socket closes one turn later
        return reason, last

    assert asyncio.run(knock()) == ("BAD_SERVICE_TOKEN", None)


def test_a_stranger_cannot_send_a_long_first_frame(around: Surroundings, replica: Replica) -> None:
    async def knock() -> bytes | None:
        peer = Peer()
        await connect(replica.address, lambda: peer, around.settings)
        peer.send(bytes(MOST_HELLO_BYTES + 1))
        last = await asyncio.wait_for(peer.frames.get(), 5)
        await asyncio.sleep(0)
        return last

    assert asyncio.run(knock()) is None


def test_it_reports_itself_and_drains_with_what_is_under_way(around: Surroundings) -> None:
    replica = Replica(around.config.to_json())
    deadline = time.monotonic() + 5
    while len(around.serving.reports) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    first = around.serving.reports[0]
    assert (first.model_version, first.address) == (VERSION, replica.address)
    answers: dict[int, dataplane_pb2.InferItemResult] = {}
    one = np.ones((1, 3), dtype=np.float32)

    async def talk() -> None:
        peer, _ = await reach(replica.address, around.settings)
        left, number = 10, 0
        while left:
            number += 1
            # Callers learn of it and go elsewhere; what they still send is answered.
            left -= around.serving.reports[-1].draining
            peer.ask([item(number, one)])
            answers.update(await peer.answers())
            await asyncio.sleep(0.001)
            if number == 5:
                threading.Thread(target=replica.stop).start()

    asyncio.run(talk())
    assert len(answers) > 10
    assert not any(result.error_reason for result in answers.values())


def test_a_file_with_another_content_is_never_loaded(around: Surroundings, tmp_path: Path) -> None:
    with open_channel(around.address, around.settings) as channel:
        kept = fetch(channel, around.registry.sha256, tmp_path / "cache")
        assert kept.read_bytes() == around.registry.artifact
        kept.write_bytes(b"tampered")
        assert fetch(channel, around.registry.sha256, tmp_path / "cache") == kept
        assert kept.read_bytes() == around.registry.artifact
        kept.unlink()
        around.registry.artifact += b"!"
        with pytest.raises(FailedPrecondition, match="ARTIFACT_CORRUPT"):
            fetch(channel, around.registry.sha256, tmp_path / "cache")
        assert list((tmp_path / "cache").iterdir()) == []
        with pytest.raises(FailedPrecondition, match="ARTIFACT_CORRUPT"):
            fetch(channel, "../../etc/passwd", tmp_path / "cache")


def test_the_native_booster_scores_as_lightgbm_does(tmp_path: Path) -> None:
    booster = models.booster()
    path = models.write(tmp_path / "m.txt", booster.model_to_string().encode())
    scorer = warmed(make_runtime("lightgbm").load(path, 3, 1), 3, 1)
    rows, _ = models.training_data()
    assert np.allclose(scorer(rows)[:, 0], booster.predict(rows), atol=1e-6)
    with pytest.raises(ModelUnusableError, match="4"):
        make_runtime("lightgbm").load(path, 4, 1)
    with pytest.raises(ModelUnusableError):
        make_runtime("lightgbm").load(models.write(tmp_path / "x", b"nonsense"), 3, 1)


def test_of_a_two_class_onnx_model_the_second_probability_is_the_score(tmp_path: Path) -> None:
    from skl2onnx import to_onnx
    from sklearn.linear_model import LogisticRegression

    rows, labels = models.training_data()
    model = LogisticRegression().fit(rows, labels)
    exported = to_onnx(model, rows[:1], options={"zipmap": False})
    path = models.write(tmp_path / "m.onnx", exported.SerializeToString())
    scorer = warmed(make_runtime("onnx").load(path, 3, 1), 3, 1)
    assert np.allclose(scorer(rows)[:, 0], model.predict_proba(rows)[:, 1], atol=1e-5)


def test_what_does_not_fit_its_signature_is_refused_at_the_load(tmp_path: Path) -> None:
    path = models.write(tmp_path / "m.onnx", models.onnx_linear())
    runtime = make_runtime("onnx")
    with pytest.raises(ModelUnusableError):
        runtime.load(path, 4, 1)
    with pytest.raises(ModelUnusableError):
        warmed(runtime.load(path, 3, 2), 3, 2)
    with pytest.raises(ModelUnusableError):
        runtime.load(models.write(tmp_path / "x.onnx", b"nonsense"), 3, 1)
    with pytest.raises(NotFound):
        make_runtime("pickle")


def test_what_comes_while_a_batch_is_scored_is_the_next_batch() -> None:
    batches: list[int] = []

    def slow(matrix: Matrix) -> Matrix:
        batches.append(len(matrix))
        time.sleep(0.05)
        return matrix[:, :1].copy()

    async def run() -> None:
        got: list[Any] = []
        batcher, sink = MicroBatcher(slow, 3, 1, most_batch_rows=64), Sink(got.extend)
        one = np.ones((1, 3), dtype=np.float32)
        batcher.submit([item(0, one)], sink)
        await asyncio.sleep(0.01)
        for number in range(1, 101):
            batcher.submit([item(number, one)], sink)
        while batcher.busy:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert len(got) == 101
        assert batcher.take_load().mean_wait_us > 0
        batcher.close()

    asyncio.run(run())
    assert batches == [1, 64, 36]


def test_what_does_not_fit_the_queue_is_refused_and_one_failure_spoils_no_other() -> None:
    def moody(matrix: Matrix) -> Matrix:
        if (matrix == 13).any():
            raise RuntimeError("unlucky")
        return matrix[:, :1].copy()

    async def run() -> dict[int, str]:
        got: list[Any] = []
        batcher, sink = MicroBatcher(moody, 3, 1, most_queued_rows=3), Sink(got.extend)
        items = [item(n, np.full((1, 3), n, dtype=np.float32)) for n in (12, 13, 14, 15)]
        batcher.submit(items, sink)
        while batcher.busy:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        batcher.close()
        return {result.id: result.error_reason for result in got}

    assert asyncio.run(run()) == {12: "", 13: "MODEL_FAILED", 14: "", 15: "RESOURCE_EXHAUSTED"}
