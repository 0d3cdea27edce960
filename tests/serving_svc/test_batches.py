"""Use cases of batch predictions on both databases, and a workflow that is killed at every step."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from modelyard.serving.v1 import batch_pb2, batch_pb2_grpc
from sqlalchemy import Engine

from service_kit.channels import calling, open_channel
from service_kit.database import migrate
from service_kit.errors import DomainError, FailedPrecondition
from service_kit.paging import Page
from service_kit.server import ServiceServer
from service_kit.settings import ServiceSettings
from serving_svc.api import BatchPredictionApi
from serving_svc.domain import ModelVersion
from serving_svc.domain.batches import Batch, BatchState, Features, Format, Progress
from serving_svc.service.batches import BATCH_WORKFLOW, BatchService, BatchWorkflow
from serving_svc.service.ports import RequestKey
from serving_svc.storage.batches import SqlBatches
from tests.serving_svc.world import NOW, V1, V2, FakeContext, FakeEngine, Kept, Killed, World

SNAPSHOT = f"snapshots/{'ab' * 32}"
ARTIFACT = f"artifacts/{'cd' * 32}"
_numbers = itertools.count()


class Work:
    """Ten rows in two shards, of which one row is refused."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.fails: dict[str, DomainError] = {}
        self.meanwhile: Callable[[], object] = lambda: None

    def _do(self, what: str) -> None:
        self.done.append(what)
        if what in self.fails:
            raise self.fails[what]

    def prepare(
        self, batch: Batch, version: ModelVersion, stopped: Callable[[], bool]
    ) -> int | None:
        self._do("prepare")
        self.meanwhile()
        return None if stopped() else 10

    def score(
        self,
        batch: Batch,
        version: ModelVersion,
        progress: Callable[[Progress], None],
        stopped: Callable[[], bool],
    ) -> bool:
        self._do(f"score {version.name}")
        progress(Progress(5, 0))
        progress(Progress(10, 1))
        return not stopped()

    def store(self, batch: Batch) -> dict[str, Any]:
        self._do("store")
        return {"output": ARTIFACT, "errors": "", "done": 10, "refused": 1}

    def discard(self, batch: Batch) -> None:
        self._do("discard")


class Context(FakeContext):
    """With a word to end for the process that stops."""

    def check(self) -> None:
        if self.interrupted:
            raise Killed


class Workflows(FakeEngine):
    """Takes a queue as well."""

    def start(self, name: str, workflow_id: str, given: dict[str, Any], *, queue: str = "") -> None:
        assert queue
        super().start(name, workflow_id, given)

    def run(self, kill_at: int = -1) -> dict[str, Any]:
        workflow_id = list(self.started)[-1]
        name, given = self.started[workflow_id]
        journal = self.journals.setdefault(workflow_id, {})
        return self.functions[name](Context(workflow_id, journal, kill_at), given)


class Batches:
    """The use cases with fakes around them."""

    def __init__(self, engine: Engine) -> None:
        migrate(engine, "serving_svc")
        self.world = World(engine)
        self.kept, self.work, self.engine = SqlBatches(engine), Work(), Workflows()
        world = self.world
        flow = BatchWorkflow(self.kept, world.registry, self.work, world.clock)
        self.engine.functions = {BATCH_WORKFLOW: flow.run}
        self.looks_up = ""
        self.use = BatchService(
            self.kept, world.store, world.registry, self.engine,
            lambda _: (self.looks_up, ("y",)), world.clock,
        )  # fmt: skip
        world.create()
        world.deploy(V1)

    def create(self, request_id: str = "", **given: Any) -> Batch:
        asked = replace(Batch("", "late", "", SNAPSHOT, NOW, creator="keys/me"), **given)
        made: list[Batch] = []

        def encode(batch: Batch) -> Kept:
            made.append(batch)
            return Kept(batch.batch_id)

        key: RequestKey[Batch, Kept] = RequestKey(
            "Create",
            request_id or f"r{next(_numbers)}",
            b"",
            encode,
            lambda raw: Kept(raw.decode()),
        )
        return self.use.get(self.use.create(asked, key).text)

    def cancel(self, batch: Batch) -> Batch:
        key: RequestKey[Batch, Kept] = RequestKey(
            "Cancel",
            f"r{next(_numbers)}",
            b"",
            lambda found: Kept(found.batch_id),
            lambda raw: Kept(raw.decode()),
        )
        self.use.cancel(batch.batch_id, key)
        return self.use.get(batch.batch_id)

    def refused(self, **given: Any) -> tuple[str, str | None]:
        with pytest.raises(DomainError) as caught:
            self.create(**given)
        return caught.value.reason, caught.value.field


@pytest.fixture
def batches(sql_engine: Engine) -> Batches:
    return Batches(sql_engine)


def test_one_from_beginning_to_end(batches: Batches) -> None:
    made = batches.create(row_key="id")
    assert (made.state, made.model_version, made.features) == (
        BatchState.QUEUED,
        V1,
        Features.GIVEN,
    )
    # The champion of later is not the one that was asked for.
    batches.world.deploy(V2)
    assert batches.engine.run() == {"state": "SUCCEEDED"}
    found = batches.use.wait(made.batch_id, 0.0)
    assert (found.state, found.rows, found.done, found.refused) == (BatchState.SUCCEEDED, 10, 10, 1)
    assert (found.output, found.ended, found.row_key) == (ARTIFACT, NOW, "id")
    assert batches.work.done == ["prepare", f"score {V1}", "store", "discard"]


@pytest.mark.parametrize("step", range(3))
def test_killed_at_any_step_it_goes_on(batches: Batches, step: int) -> None:
    made = batches.create()
    with pytest.raises(Killed):
        batches.engine.run(kill_at=step)
    batches.use.resume()
    assert len(batches.engine.started) == 1
    batches.engine.run()
    found = batches.use.get(made.batch_id)
    assert (found.state, found.rows, found.done, found.refused) == (BatchState.SUCCEEDED, 10, 10, 1)
    assert batches.work.done[-1] == "discard"


def test_the_same_request_is_one_batch(batches: Batches) -> None:
    assert batches.create("same") == batches.create("same")
    assert len(batches.engine.started) == 1


def test_what_was_recorded_and_not_started_is_started(batches: Batches) -> None:
    batches.create()
    batches.engine.started.clear()
    batches.use.resume()
    assert batches.engine.run() == {"state": "SUCCEEDED"}
    batches.engine.started.clear()
    batches.use.resume()
    assert batches.engine.started == {}


def test_stopped_while_at_work(batches: Batches) -> None:
    made = batches.create()
    batches.work.meanwhile = lambda: batches.cancel(made)
    assert batches.engine.run() == {"state": "CANCELLED"}
    assert batches.work.done == ["prepare", "discard"]
    with pytest.raises(FailedPrecondition, match="BATCH_PREDICTION_ENDED"):
        batches.cancel(made)


def test_stopped_before_it_began(batches: Batches) -> None:
    assert batches.cancel(batches.create()).state is BatchState.CANCELLED
    assert batches.engine.run() == {"state": "CANCELLED"}
    assert batches.work.done == ["discard"]


def test_what_can_t_be_done_says_why(batches: Batches) -> None:
    made = batches.create()
    batches.work.fails["prepare"] = FailedPrecondition("COLUMN_MISSING", "no column x")
    assert batches.engine.run() == {"state": "FAILED"}
    found = batches.use.get(made.batch_id)
    assert (found.reason, found.ended) == ("COLUMN_MISSING: no column x", NOW)


def test_what_can_t_be_asked_for(batches: Batches) -> None:
    refused = batches.refused
    at = "batch_prediction."
    assert refused(source="") == ("INPUT_MISSING", f"{at}snapshot")
    assert refused(source="snapshots/a/b") == ("INVALID_NAME", f"{at}snapshot")
    assert refused(source="/etc/passwd") == ("INVALID_NAME", f"{at}artifact")
    assert refused(source=ARTIFACT) == ("FORMAT_MISSING", f"{at}format")
    assert refused(format=Format.CSV) == ("FORMAT_NOT_WANTED", f"{at}format")
    assert refused(source=ARTIFACT, format=Format.CSV, features=Features.POINT_IN_TIME) == (
        "POINT_IN_TIME_NEEDS_SNAPSHOT", f"{at}features",
    )  # fmt: skip
    assert refused(row_key="y") == ("ROW_KEY_TAKEN", f"{at}row_key")
    assert refused(row_key="row") == ("ROW_KEY_TAKEN", f"{at}row_key")
    assert refused(endpoint_id="none")[0] == "ENDPOINT_NOT_FOUND"
    assert refused(model_version="models/other/versions/1") == ("WRONG_MODEL", "model_version")
    assert batches.engine.started == {}


def test_where_features_come_from(batches: Batches) -> None:
    batches.looks_up = "featureServices/s"
    assert batches.create().features is Features.ONLINE
    assert batches.create(features=Features.POINT_IN_TIME).features is Features.POINT_IN_TIME
    assert batches.create(features=Features.GIVEN).features is Features.GIVEN


def test_pages_newest_first(batches: Batches) -> None:
    made = [batches.create().batch_id for _ in range(3)]
    first, token = batches.use.page(Page(2))
    rest, end = batches.use.page(Page(2, token))
    assert [batch.batch_id for batch in first + rest] == made[::-1]
    assert end == ""


def test_over_the_wire(batches: Batches) -> None:
    settings = ServiceSettings(service="serving", service_token="a-token-for-tests")
    add = batch_pb2_grpc.add_BatchPredictionServiceServicer_to_server
    with (
        ServiceServer(settings, [(add, BatchPredictionApi(batches.use))]) as server,
        open_channel(server.address, settings) as channel,
    ):
        stub = batch_pb2_grpc.BatchPredictionServiceStub(channel)
        asked = batch_pb2.BatchPrediction(endpoint="endpoints/late", artifact=ARTIFACT)
        asked.format = batch_pb2.BatchPrediction.FORMAT_CSV
        request = batch_pb2.CreateBatchPredictionRequest(batch_prediction=asked, request_id="r")
        made = stub.CreateBatchPrediction(request)
        assert stub.CreateBatchPrediction(request) == made
        asked.row_key = "id"
        other = stub.CreateBatchPrediction(
            batch_pb2.CreateBatchPredictionRequest(batch_prediction=asked)
        )
        batches.engine.run()
        wait = batch_pb2.WaitBatchPredictionRequest(name=other.name)
        ended = stub.WaitBatchPrediction(wait)
        wait.name = made.name
        wait.timeout.FromMilliseconds(300)
        waiting = stub.WaitBatchPrediction(wait)
        listed = stub.ListBatchPredictions(batch_pb2.ListBatchPredictionsRequest(page_size=1))
        request.batch_prediction.endpoint = "late"
        request.request_id = ""
        with pytest.raises(DomainError) as caught, calling("serving"):
            stub.CreateBatchPrediction(request)
    assert (made.artifact, made.model_version, made.creator) == (ARTIFACT, V1, "services/serving")
    assert made.features == batch_pb2.BatchPrediction.FEATURES_GIVEN
    assert ended.state == batch_pb2.BatchPrediction.STATE_SUCCEEDED
    assert (ended.row_count, ended.done_count, ended.refused_count) == (10, 10, 1)
    assert waiting.state == batch_pb2.BatchPrediction.STATE_QUEUED
    assert [each.name for each in listed.batch_predictions] == [other.name]
    assert listed.next_page_token
    assert (caught.value.reason, caught.value.field) == (
        "INVALID_NAME",
        "batch_prediction.endpoint",
    )
