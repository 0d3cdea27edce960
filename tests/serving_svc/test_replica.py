"""A replica without Ray: real models, real connections, a fake registry and a fake serving."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path

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
from serving_svc.batching import MicroBatcher, Request, Response
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


def message(number: int, *matrices: Matrix) -> Request:
    return Request(
        id=number,
        rows=[len(matrix) for matrix in matrices],
        inputs=b"".join(matrix.tobytes() for matrix in matrices),
    )


def floats(response: Response) -> list[float]:
    return [float(value) for value in np.frombuffer(response.outputs, "<f4")]


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

    async def answer(self) -> Response:
        frame = await asyncio.wait_for(self.frames.get(), 5)
        assert frame is not None, "the replica hung up"
        return Response.FromString(frame)

    def ask(self, request: Request) -> None:
        self.send(request.SerializeToString())


async def reach(address: str, settings: ServiceSettings) -> tuple[Peer, str]:
    """A connection, and the reason why it is of no use."""
    peer = Peer()
    await connect(address, lambda: peer, settings)
    peer.send(hello(settings))
    welcome = await asyncio.wait_for(peer.frames.get(), 5)
    assert welcome is not None
    return peer, dataplane_pb2.Welcome.FromString(welcome).error_reason


async def ask(
    address: str, settings: ServiceSettings, requests: list[Request]
) -> dict[int, Response]:
    """Send messages on one connection; gives the answers by id."""
    peer, reason = await reach(address, settings)
    assert reason == ""
    for request in requests:
        peer.ask(request)
    answers = [await peer.answer() for _ in requests]
    peer.transport.close()
    await asyncio.wait_for(peer.frames.get(), 5)
    await asyncio.sleep(0)
    return {answer.id: answer for answer in answers}


def test_messages_are_answered_by_their_ids(around: Surroundings, replica: Replica) -> None:
    rng = np.random.default_rng(1)
    asked = {
        number: [rng.normal(size=(n, 3)).astype(np.float32) for n in range(1, number % 5 + 2)]
        for number in range(1, 60)
    }
    requests = [message(number, *matrices) for number, matrices in asked.items()]
    answers = asyncio.run(ask(replica.address, around.settings, requests))
    assert answers.keys() == asked.keys()
    for number, matrices in asked.items():
        expected = (np.concatenate(matrices) @ models.WEIGHTS).ravel()
        assert floats(answers[number]) == pytest.approx(expected.tolist(), abs=1e-5)
        assert not answers[number].error_reasons


def test_bad_messages_are_refused_and_bad_requests_one_by_one(
    around: Surroundings, replica: Replica
) -> None:
    good = np.ones((1, 3), dtype=np.float32)
    huge = np.full((2, 3), 3e38, dtype=np.float32)
    bad = [
        Request(id=2, rows=[2], inputs=good.tobytes()),
        Request(id=3),
        Request(id=4, rows=[1, 0], inputs=good.tobytes()),
        message(5, good, huge, 2 * good),
    ]
    answers = asyncio.run(ask(replica.address, around.settings, [message(1, good), *bad]))
    assert floats(answers[1]) == [2.0]
    reasons = {number: list(answers[number].error_reasons) for number in (2, 3, 4, 5)}
    assert reasons == {
        2: ["INVALID_SHAPE"],
        3: ["INVALID_ROWS"],
        4: ["INVALID_ROWS"],
        5: ["", "OUTPUT_NOT_FINITE", ""],
    }
    scores = floats(answers[5])
    assert (scores[0], scores[3]) == (2.0, 4.0)


def test_a_caller_without_the_token_is_refused(around: Surroundings, replica: Replica) -> None:
    wrong = ServiceSettings(service="test", service_token="wrong")

    async def knock() -> tuple[str, bytes | None]:
        peer, reason = await reach(replica.address, wrong)
        peer.ask(message(1, np.ones((1, 3), dtype=np.float32)))
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
    answers: list[Response] = []
    one = np.ones((1, 3), dtype=np.float32)

    async def talk() -> None:
        peer, _ = await reach(replica.address, around.settings)
        left, number = 10, 0
        while left:
            number += 1
            # Callers learn of it and go elsewhere; what they still send is answered.
            left -= around.serving.reports[-1].draining
            peer.ask(message(number, one))
            answers.append(await peer.answer())
            await asyncio.sleep(0.001)
            if number == 5:
                threading.Thread(target=replica.stop).start()
        peer.transport.close()
        await asyncio.sleep(0.01)

    asyncio.run(talk())
    assert len(answers) > 10
    assert not any(answer.error_reasons for answer in answers)


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
        got: list[Response] = []
        batcher = MicroBatcher(slow, 3, 1, most_batch_rows=64)
        one = np.ones((1, 3), dtype=np.float32)
        batcher.submit(message(0, one), got.append)
        await asyncio.sleep(0.01)
        for number in range(1, 101):
            batcher.submit(message(number, one), got.append)
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

    async def run() -> dict[int, list[str]]:
        got: list[Response] = []
        batcher = MicroBatcher(moody, 3, 1, most_queued_rows=3)
        for number in (12, 13, 14, 15):
            matrix = np.full((1, 3), number, dtype=np.float32)
            batcher.submit(message(number, matrix), got.append)
        while batcher.busy:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        batcher.close()
        return {response.id: list(response.error_reasons) for response in got}

    assert asyncio.run(run()) == {
        12: [""],
        13: ["MODEL_FAILED"],
        14: [""],
        15: ["RESOURCE_EXHAUSTED"],
    }


def test_a_batch_that_is_quick_is_scored_on_the_loop_and_a_slow_one_is_not() -> None:
    threads: list[str] = []
    now, pause = [0.0], [0.0]

    def scorer(matrix: Matrix) -> Matrix:
        threads.append(threading.current_thread().name)
        now[0] += pause[0]
        return matrix[:, :1].copy()

    async def run() -> None:
        batcher = MicroBatcher(scorer, 3, 1, clock=lambda: now[0])
        one = np.ones((1, 3), dtype=np.float32)
        for number in range(120):
            pause[0] = 0.02 if number >= 60 else 0.0
            batcher.submit(message(number, one), lambda _: None)
            while batcher.busy:  # noqa: ASYNC110
                await asyncio.sleep(0.0)
        batcher.close()

    asyncio.run(run())
    assert threads[0].startswith("score")  # nothing is known of the model yet
    assert not threads[59].startswith("score")
    assert threads[119].startswith("score")
