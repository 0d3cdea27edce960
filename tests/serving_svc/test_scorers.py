"""Use cases of stream scorers on both databases and over the wire."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import pytest
from modelyard.serving.v1 import stream_pb2, stream_pb2_grpc
from sqlalchemy import Engine

from service_kit.channels import calling, open_channel
from service_kit.database import migrate
from service_kit.errors import DomainError, Unavailable
from service_kit.paging import Page
from service_kit.server import ServiceServer
from service_kit.settings import ServiceSettings
from serving_svc.api import StreamScorerApi
from serving_svc.domain import scorers as rules
from serving_svc.domain.scorers import Progress, ScorerState, Start, StreamScorer
from serving_svc.service.ports import RequestKey
from serving_svc.service.scorers import ScorerService
from serving_svc.storage.scorers import SqlScorers
from serving_svc.stream.redis_source import ScorerKeys
from tests.serving_svc.world import NOW, Kept, World

ASKED = StreamScorer("", "late", "orders", "flights", NOW, creator="keys/me")
AT = ("late", "orders")
_numbers = itertools.count()


@dataclass
class Streams:
    """Streams that note what is opened."""

    opened: list[str] = field(default_factory=list)
    away: bool = False
    asked: int = 0

    def open(self, scorer: StreamScorer) -> None:
        self._check()
        self.opened.append(scorer.uid)

    def progress(self, scorer: StreamScorer) -> Progress:
        self._check()
        return Progress(7, 2, 1, 3, None, "NO_ANSWER", NOW)

    def _check(self) -> None:
        self.asked += 1
        if self.away:
            raise Unavailable("STREAM_UNAVAILABLE", "away")


class Scorers:
    """The use cases on a record with one endpoint."""

    def __init__(self, engine: Engine) -> None:
        migrate(engine, "serving_svc")
        self.world = World(engine)
        self.world.create()
        self.kept, self.streams = SqlScorers(engine, self.world.clock), Streams()
        self.woken = 0
        self.use = ScorerService(self.kept, self.streams, self.world.clock, self._wake)

    def create(self, request_id: str = "", **given: Any) -> StreamScorer:
        asked = replace(ASKED, **given)
        self.use.create(asked, key(request_id))
        return self.use.get((asked.endpoint_id, asked.scorer_id))

    def _wake(self) -> None:
        self.woken += 1

    def refused(self, **given: Any) -> tuple[str, str | None]:
        with pytest.raises(DomainError) as caught:
            self.create(**given)
        return caught.value.reason, caught.value.field


def key(request_id: str = "") -> RequestKey[Any, Kept]:
    return RequestKey(
        "test", request_id or f"r{next(_numbers)}", b"", lambda _: Kept(""),
        lambda raw: Kept(raw.decode()),
    )  # fmt: skip


@pytest.fixture
def scorers(sql_engine: Engine) -> Scorers:
    return Scorers(sql_engine)


def test_created_paused_resumed_deleted(scorers: Scorers) -> None:
    made = scorers.create(input_fields={"hour": "/at/hour"})
    assert (made.results, made.dead_letters) == ("late.orders.results", "late.orders.dead")
    assert (made.max_rows, made.start, made.dedupe_window) == (
        rules.DEFAULT_ROWS, Start.EARLIEST, timedelta(days=1),
    )  # fmt: skip
    assert made.input_fields == {"hour": "/at/hour"}
    assert scorers.streams.opened == [made.uid]
    assert scorers.kept.running() == [made]
    scorers.use.pause(AT, "keys/me", key())
    assert scorers.use.get(AT).state is ScorerState.PAUSED
    assert scorers.kept.running() == []
    scorers.use.resume(AT, "keys/me", key())
    assert scorers.kept.running() == [made]
    scorers.use.delete(AT, "keys/me", key())
    assert scorers.woken == 4  # who runs them is told of each change
    assert scorers.kept.running() == []
    # It stays until its place in the stream is removed; one of its name may come before that.
    another = scorers.create()
    assert another.group != made.group
    assert scorers.kept.deleted() == [made]
    scorers.kept.forget(made)
    assert scorers.kept.deleted() == []
    assert scorers.kept.running() == [another]
    assert scorers.world.changes()[-5:] == ["created", "paused", "resumed", "deleted", "created"]


def test_an_endpoints_scorers_go_with_it(scorers: Scorers) -> None:
    made = scorers.create()
    scorers.world.endpoints.delete_endpoint("late", "keys/me", key())
    assert (scorers.kept.running(), scorers.kept.deleted()) == ([], [made])
    scorers.world.create()
    assert scorers.use.page("late", Page(10)) == ([], "")


def test_a_request_that_is_repeated_is_one_scorer(scorers: Scorers) -> None:
    assert scorers.create("same") == scorers.create("same")
    assert scorers.refused() == ("STREAM_SCORER_EXISTS", "stream_scorer_id")


def test_created_while_redis_is_away(scorers: Scorers) -> None:
    scorers.streams.away = True
    made = scorers.create()
    assert scorers.kept.running() == [made]
    asked = scorers.streams.asked
    assert scorers.use.progress([made, made]) == [None, None]
    assert scorers.streams.asked == asked + 1  # nobody waits for each of them


def test_what_can_t_be_asked_for(scorers: Scorers, monkeypatch: pytest.MonkeyPatch) -> None:
    refused, at = scorers.refused, "stream_scorer."
    assert refused(scorer_id="A b") == ("INVALID_ID", "stream_scorer_id")
    assert refused(source="") == ("INVALID_ID", f"{at}source_stream")
    assert refused(source="modelyard:outcomes") == ("INVALID_ID", f"{at}source_stream")
    assert refused(results="../x") == ("INVALID_ID", f"{at}result_stream")
    assert refused(results="flights") == ("STREAM_TWICE", f"{at}result_stream")
    assert refused(dead_letters="late.orders.results") == (
        "STREAM_TWICE", f"{at}dead_letter_stream",
    )  # fmt: skip
    assert refused(input_fields={"hour": "at.hour"}) == ("INVALID_FORMAT", f"{at}input_fields")
    assert refused(input_fields={"": "/a"}) == ("OUT_OF_RANGE", f"{at}input_fields")
    assert refused(max_rows=1_025) == ("OUT_OF_RANGE", f"{at}max_batch_rows")
    assert refused(dedupe_window=timedelta(days=31)) == ("OUT_OF_RANGE", f"{at}dedupe_window")
    assert refused(dedupe_limit=-1) == ("OUT_OF_RANGE", f"{at}dedupe_limit")
    assert refused(result_limit=10_000_001) == ("OUT_OF_RANGE", f"{at}result_limit")
    assert refused(endpoint_id="none")[0] == "ENDPOINT_NOT_FOUND"
    monkeypatch.setattr("serving_svc.storage.scorers.MOST_SCORERS", 1)
    scorers.create()
    assert refused(scorer_id="more")[0] == "TOO_MANY_STREAM_SCORERS"
    for change in (scorers.use.pause, scorers.use.resume, scorers.use.delete):
        with pytest.raises(DomainError, match="STREAM_SCORER_NOT_FOUND"):
            change(("late", "none"), "keys/me", key())


def test_no_stream_of_a_scorer_is_one_of_the_suites() -> None:
    suite = {"predictions", "outcomes", "exposures", "alerts", "changes"}
    for name in suite:
        scorer = rules.checked(replace(ASKED, source=name))
        keys = ScorerKeys("modelyard", scorer)
        assert {keys.source, keys.results, keys.dead_letters}.isdisjoint(
            {f"modelyard:{each}" for each in suite}
        )
        assert keys.source == f"modelyard:events:{name}"


def test_pages_by_id(scorers: Scorers) -> None:
    for name in ("c", "a", "b"):
        scorers.create(scorer_id=name)
    first, token = scorers.use.page("late", Page(2))
    rest, end = scorers.use.page("late", Page(2, token))
    assert ([each.scorer_id for each in first + rest], end) == (["a", "b", "c"], "")


def named(scorer: StreamScorer) -> tuple[str, str, str]:
    return scorer.source, scorer.results, scorer.dead_letters


@pytest.fixture
def stub(scorers: Scorers) -> Iterator[Any]:
    settings = ServiceSettings(service="serving", service_token="a-token-for-tests")
    add = stream_pb2_grpc.add_StreamScorerServiceServicer_to_server
    with (
        ServiceServer(settings, [(add, StreamScorerApi(scorers.use, named))]) as server,
        open_channel(server.address, settings) as channel,
    ):
        yield stream_pb2_grpc.StreamScorerServiceStub(channel)


def test_over_the_wire(scorers: Scorers, stub: Any) -> None:
    asked = stream_pb2.StreamScorer(source_stream="flights", max_batch_rows=5)
    asked.start = stream_pb2.StreamScorer.START_LATEST
    asked.dedupe_window.FromSeconds(60)
    asked.input_fields["hour"] = "/hour"
    request = stream_pb2.CreateStreamScorerRequest(
        parent="endpoints/late", stream_scorer_id="orders", stream_scorer=asked, request_id="r"
    )
    made = stub.CreateStreamScorer(request)
    assert stub.CreateStreamScorer(request) == made
    name = made.name
    assert name == "endpoints/late/streamScorers/orders"
    assert (made.source_key, made.result_key, made.creator) == (
        "flights", "late.orders.results", "services/serving",
    )  # fmt: skip
    assert (made.start, made.dedupe_window.seconds, made.max_batch_rows) == (2, 60, 5)
    found = stub.GetStreamScorer(stream_pb2.GetStreamScorerRequest(name=name))
    progress = found.progress
    assert (progress.read_count, progress.scored_count, progress.refused_count) == (13, 7, 2)
    assert (progress.repeated_count, progress.pending_count) == (1, 3)
    assert (progress.HasField("lag"), progress.last_error) == (False, "NO_ANSWER")
    paused = stub.PauseStreamScorer(stream_pb2.PauseStreamScorerRequest(name=name))
    assert paused.state == stream_pb2.StreamScorer.STATE_PAUSED
    listing = stream_pb2.ListStreamScorersRequest(parent="endpoints/late")
    assert [each.name for each in stub.ListStreamScorers(listing).stream_scorers] == [name]
    resumed = stub.ResumeStreamScorer(stream_pb2.ResumeStreamScorerRequest(name=name))
    assert resumed.state == stream_pb2.StreamScorer.STATE_RUNNING
    scorers.streams.away = True
    found = stub.GetStreamScorer(stream_pb2.GetStreamScorerRequest(name=name))
    assert not found.HasField("progress")
    stub.DeleteStreamScorer(stream_pb2.DeleteStreamScorerRequest(name=name, request_id="d"))
    stub.DeleteStreamScorer(stream_pb2.DeleteStreamScorerRequest(name=name, request_id="d"))
    with pytest.raises(DomainError, match="STREAM_SCORER_NOT_FOUND"), calling("serving"):
        stub.GetStreamScorer(stream_pb2.GetStreamScorerRequest(name=name))
