"""The prediction log on real files, databases and Redis: exactly once, found fast, forgotten."""

from __future__ import annotations

import math
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import redis
from modelyard.data.v1 import data_pb2
from modelyard.events.v1 import events_pb2
from modelyard.registry.v1 import registry_pb2, registry_pb2_grpc
from modelyard.serving.v1 import predictions_pb2, predictions_pb2_grpc
from sqlalchemy import Engine

from service_kit.channels import Peers, calling, open_channel
from service_kit.clock import FixedClock
from service_kit.database import migrate, transaction
from service_kit.errors import DomainError, NotFound, Unavailable
from service_kit.ids import uuid7_str
from service_kit.server import ServiceServer
from service_kit.settings import ServiceSettings
from service_kit.streams import Event, EventStreams
from serving_svc.api import PredictionLogApi
from serving_svc.domain.predictions import MERGE_FILES, LogFile, asked_at
from serving_svc.lineage import GrpcLineages
from serving_svc.prediction_log import PredictionFiles
from serving_svc.service.predictions import Lineage, LogCare, PredictionLog
from serving_svc.storage.prediction_files import SqlPredictionCatalogue
from tests.serving_svc import prediction_process
from tests.serving_svc.world import V1, V2, Killed

KEEP = timedelta(days=30)
NOW_US = 1_364_774_400_000_000


def batch(ids: Sequence[str], *, shadow: bool = False, **given: Any) -> events_pb2.PredictionBatch:
    """Predictions with one number, one text and one looked-up number."""
    kinds = events_pb2.PredictionBatch
    made = kinds(
        endpoint="endpoints/late",
        variant="v2" if shadow else "v1",
        model_version=V2 if shadow else V1,
        role=kinds.ROLE_SHADOW if shadow else kinds.ROLE_PRIMARY,
        prediction_ids=ids,
        unit_ids=["u"] * len(ids),
        event_times_us=[NOW_US] * len(ids),
        scores=[n / 8 for n in range(len(ids))],
        latencies_us=[900] * len(ids),
        table_generation=7,
    )
    made.inputs.add(name="hour").doubles.values.extend(range(len(ids)))
    made.inputs.add(name="carrier").strings.values.extend(["UA"] * len(ids))
    looked_up = made.inputs.add(name="delays", event_times_us=[NOW_US - 5] * len(ids))
    looked_up.doubles.values.extend([math.nan, *[2.5] * (len(ids) - 1)])
    for name, value in given.items():
        setattr(made, name, value)
    return made


class Lineages:
    """A registry that knows one snapshot."""

    def lineage(self, version: str) -> Lineage:
        if version != V1:
            raise Unavailable("REGISTRY_AWAY", "down")
        return Lineage((("snapshots/ab", "snapshot"),), (("snapshots/ab", version),))


class Log:
    """A log without its stream."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        migrate(engine, "serving_svc")
        self.engine = engine
        self.folder = folder
        self.clock = FixedClock(datetime.now(UTC))
        self.files = PredictionFiles(folder)
        self.catalogue = SqlPredictionCatalogue(engine)
        self.care = LogCare(self.catalogue, self.files, self.clock, KEEP)
        self.waiting: list[events_pb2.PredictionBatch] = []
        self.use = PredictionLog(
            self.catalogue, self.files, Lineages(), self.clock, self.catch_up, KEEP, self.pause
        )
        self.late: list[events_pb2.PredictionBatch] = []

    def take(self, *batches: events_pb2.PredictionBatch) -> None:
        with transaction(self.engine) as session:
            self.catalogue.add(session, self.files.write(batches))

    def pause(self, _: float) -> None:
        self.waiting, self.late = self.late, []

    def catch_up(self, _: float) -> bool:
        self.take(*self.waiting)
        self.waiting.clear()
        return True

    def listed(self) -> Sequence[LogFile]:
        return self.catalogue.below(10**12)

    def on_disk(self) -> list[Path]:
        return [path for path in self.folder.rglob("*") if path.is_file()]

    def rows(self) -> Counter[str]:
        """How often each id is in the files that make up the log."""
        return rows_of(self.folder, self.listed())


def rows_of(folder: Path, files: Sequence[LogFile]) -> Counter[str]:
    found: Counter[str] = Counter()
    for file in files:
        path = next(folder.glob(f"*/*/{file.file_id}.parquet"))
        found.update(
            pq.read_table(path, columns=["prediction_id"], partitioning=None)[
                "prediction_id"
            ].to_pylist()
        )
    return found


@pytest.fixture
def log(sql_engine: Engine, tmp_path: Path) -> Log:
    return Log(sql_engine, tmp_path / "log")


def ids(count: int) -> list[str]:
    return [uuid7_str() for _ in range(count)]


def id_at(day: date, number: int = 0) -> str:
    ms = int(datetime.combine(day, datetime.min.time(), UTC).timestamp() * 1000) + number
    text = f"{ms:012x}"
    return f"{text[:8]}-{text[8:]}-7000-8000-000000000000"


def refused(log: Log, prediction_id: str) -> DomainError:
    with pytest.raises(DomainError) as caught:
        log.use.get_prediction(prediction_id)
    return caught.value


def test_a_prediction_is_found_with_all_that_went_in(log: Log) -> None:
    names = ids(3)
    log.take(batch(names), batch(names, shadow=True), batch(ids(2)))
    first = log.use.get_prediction(names[0])
    second = log.use.get_prediction(names[1])
    row = second.row
    assert (row.endpoint_id, row.variant, row.model_version) == ("late", "v1", V1)
    assert (row.score, row.latency_us, row.table_generation) == (0.125, 900, 7)
    assert row.inputs == {"hour": 1.0, "carrier": "UA", "delays": 2.5}
    assert {name: at.timestamp() * 1e6 for name, at in row.known.items()} == {"delays": NOW_US - 5}
    assert first.row.inputs["delays"] is None
    assert [(each.variant, each.model_version) for each in second.shadows] == [("v2", V2)]
    assert second.lineage.nodes == (("snapshots/ab", "snapshot"),)
    assert second.asked == asked_at(names[1])


def test_without_the_registry_everything_else_is_there(log: Log) -> None:
    names = ids(1)
    log.take(batch(names, model_version=V2))
    found = log.use.get_prediction(names[0])
    assert (found.lineage, found.lineage_missing) == (Lineage(), "REGISTRY_AWAY")
    log.take(batch(names := ids(1), model_version=""))
    assert log.use.get_prediction(names[0]).lineage_missing == "NO_MODEL_ANSWERED"


def test_what_is_still_in_the_stream_is_found_too(log: Log) -> None:
    names = ids(2)
    log.waiting.append(batch(names))
    assert log.use.get_prediction(names[1]).row.score == 0.125


def test_what_the_gateway_is_about_to_send_is_waited_for(log: Log) -> None:
    names = ids(2)
    log.late.append(batch(names))
    assert log.use.get_prediction(names[1]).row.score == 0.125


def test_what_is_not_found_says_why(log: Log) -> None:
    young = refused(log, uuid7_str())
    assert (young.reason, young.field) == ("PREDICTION_NOT_LOGGED_YET", "name")
    assert young.metadata == {"retry_after_s": "2"}
    today = log.clock.now().date()
    assert refused(log, id_at(today - timedelta(days=2))).reason == "PREDICTION_NOT_FOUND"
    assert refused(log, id_at(today - timedelta(days=40))).reason == "PREDICTION_EXPIRED"
    assert refused(log, "x").reason == "INVALID_PREDICTION_ID"


def test_a_log_that_is_behind_does_not_say_that_there_is_none(log: Log) -> None:
    use = PredictionLog(log.catalogue, log.files, Lineages(), log.clock, lambda _: False, KEEP)
    with pytest.raises(NotFound) as caught:
        use.get_prediction(id_at(log.clock.now().date() - timedelta(days=2)))
    assert caught.value.reason == "PREDICTION_NOT_LOGGED_YET"


def test_a_shadow_alone_is_no_answer(log: Log) -> None:
    names = ids(1)
    log.take(batch(names, shadow=True))
    assert refused(log, names[0]).reason == "PREDICTION_NOT_LOGGED_YET"


def test_small_files_become_one_and_nothing_is_lost(log: Log) -> None:
    names = ids(MERGE_FILES * 3)
    for at in range(0, len(names), 3):
        log.take(batch(names[at : at + 3]))
    assert len(log.listed()) == MERGE_FILES
    assert log.care.merge() == MERGE_FILES
    assert [file.rows for file in log.listed()] == [len(names)]
    assert len(log.on_disk()) == 1
    assert log.rows() == Counter(names)
    assert log.use.get_prediction(names[-1]).row.score == 0.25


def test_one_id_and_version_is_one_row(log: Log) -> None:
    names = ids(3)
    log.take(batch(names), batch(names[1:]), batch(names, shadow=True))
    assert log.rows() == Counter(names * 2)


def test_other_columns_are_other_files(log: Log) -> None:
    other = batch(ids(1))
    other.inputs.add(name="more").int64s.values.append(3)
    log.take(batch(ids(1)), other)
    assert len(log.listed()) == 2
    assert log.use.get_prediction(other.prediction_ids[0]).row.inputs["more"] == 3


def test_a_batch_over_midnight_is_in_two_days(log: Log) -> None:
    days = [date(2026, 3, 1), date(2026, 3, 2)]
    names = [id_at(days[0], 86_399_999), id_at(days[1])]
    log.take(batch(names))
    assert [(file.day, file.min_id) for file in log.listed()] == list(zip(days, names, strict=True))
    log.clock.moment = datetime(2026, 3, 3, tzinfo=UTC)
    assert log.use.get_prediction(names[0]).row.prediction_id == names[0]


def test_days_are_forgotten(log: Log) -> None:
    today = log.clock.now().date()
    old, kept = id_at(today - timedelta(days=31)), id_at(today - timedelta(days=30))
    log.take(batch([old]), batch([kept]))
    assert log.care.forget() == 1
    assert log.rows() == Counter([kept])
    assert len(log.on_disk()) == 1
    assert refused(log, old).reason == "PREDICTION_EXPIRED"


@pytest.mark.parametrize(
    "wrong",
    [
        {"endpoint": "endpoints/../../etc"},
        {"add": "prediction_ids", "value": uuid7_str()},
        {"add": "unit_ids", "value": "u"},
        {"add": "fallbacks", "value": "default"},
        {"ids": ["not-an-id"]},
        {"ids": ["ffffffff-ffff-7000-8000-000000000000"]},
        {"column": data_pb2.Column(name="hour", doubles={"values": [1.0]})},
        {"column": data_pb2.Column(name="s", doubles={"values": [1.0]}, statuses=b"\1\1")},
        {"column": data_pb2.Column(name="t", doubles={"values": [1.0]}, event_times_us=[1, 2])},
    ],
)
def test_what_is_not_sound_is_refused_whole(tmp_path: Path, wrong: dict[str, Any]) -> None:
    made = batch(wrong.get("ids", ids(1)))
    if "endpoint" in wrong:
        made.endpoint = wrong["endpoint"]
    if "add" in wrong:
        getattr(made, wrong["add"]).extend([wrong["value"]] * 2)
    if "column" in wrong:
        made.inputs.append(wrong["column"])
    with pytest.raises((ValueError, DomainError)):
        PredictionFiles(tmp_path).write([made])
    assert list(tmp_path.rglob("*.parquet")) == []


def test_a_disk_that_takes_nothing_is_no_event_s_fault(tmp_path: Path) -> None:
    (tmp_path / "endpoint=late").write_text("in the way")
    with pytest.raises(Unavailable) as caught:
        PredictionFiles(tmp_path).write([batch(ids(1))])
    assert caught.value.reason == "LOG_STORAGE"


def test_ended_before_the_commit_the_file_is_nobody_s(log: Log) -> None:
    def take_and_end() -> None:
        with transaction(log.engine) as session:
            log.catalogue.add(session, log.files.write([batch(ids(2))]))
            raise Killed

    with pytest.raises(Killed):
        take_and_end()
    assert (len(log.on_disk()), len(log.listed())) == (1, 0)
    assert log.care.tidy() == 0, "somebody may be writing it"
    assert log.care.tidy(timedelta(seconds=-1)) == 1
    assert log.on_disk() == []


def test_a_file_that_was_merged_meanwhile_is_looked_for_anew(log: Log) -> None:
    names = ids(MERGE_FILES)
    for each in names:
        log.take(batch([each]))

    class Stale(SqlPredictionCatalogue):
        asked = 0

        def covering(self, prediction_id: str, day: date) -> Sequence[LogFile]:
            found = super().covering(prediction_id, day)
            self.asked += 1
            if self.asked == 1:
                log.care.merge()
            return found

    stale = Stale(log.engine)
    use = PredictionLog(stale, log.files, Lineages(), log.clock, lambda _: False, KEEP)
    assert use.get_prediction(names[3]).row.prediction_id == names[3]
    assert stale.asked == 2


def test_two_processes_merge_the_same_files_once(log: Log) -> None:
    names = ids(MERGE_FILES)
    for each in names:
        log.take(batch([each]))

    class Slow(PredictionFiles):
        def merge(self, files: Sequence[LogFile]) -> LogFile:
            merged = super().merge(files)
            log.care.merge()
            return merged

    slow = LogCare(log.catalogue, Slow(log.folder), log.clock, KEEP)
    assert slow.merge() == 0
    assert log.rows() == Counter(names)
    assert len(log.on_disk()) == 1


@pytest.fixture(params=["redis", "valkey"])
def any_redis(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture
def prefix(any_redis: str) -> Iterator[str]:
    name = f"test-{uuid7_str()[-12:]}"
    yield name
    with redis.Redis.from_url(any_redis) as client:
        for found in client.scan_iter(match=f"{name}:*"):
            client.delete(found)


def finished(client: redis.Redis, key: str, events: int) -> bool:
    groups: Any = client.xinfo_groups(key)
    return bool(groups) and all(
        group["pending"] == 0 and group["entries-read"] == events for group in groups
    )


def test_every_row_is_there_once_whenever_the_process_is_killed(
    sql_url: str, sql_engine: Engine, any_redis: str, prefix: str, tmp_path: Path
) -> None:
    log = Log(sql_engine, tmp_path / "log")
    streams = EventStreams(any_redis, prefix, timeout=5.0)
    names = ids(400)
    command = [sys.executable, "-m", prediction_process.__name__, sql_url, any_redis, prefix]
    luck = random.Random(5)
    child = None
    try:
        for at in range(0, len(names), 50):
            events = [
                Event.of("predictions", "endpoints/late", batch(names[n : n + 2]))
                for n in range(at, at + 50, 2)
            ]
            # As the gateway does when the answer to an append is lost.
            streams.append("predictions", [*events, events[0]])
            child = subprocess.Popen([*command, str(log.folder)], stdout=subprocess.PIPE)
            assert child.stdout is not None
            assert child.stdout.readline()
            time.sleep(luck.uniform(0.0, 0.25))
            os.kill(child.pid, signal.SIGKILL)
            child.wait()
        child = subprocess.Popen([*command, str(log.folder)], stdout=subprocess.DEVNULL)
        with redis.Redis.from_url(any_redis) as client:
            deadline = time.monotonic() + 60
            key = streams.key("predictions")
            while not finished(client, key, 8 * 26):
                assert time.monotonic() < deadline, client.xinfo_groups(key)
                time.sleep(0.05)
            assert client.xlen(f"{key}.dead") == 0
    finally:
        if child is not None:
            child.kill()
            child.wait()
    assert log.rows() == Counter(names)
    log.care.tidy(timedelta(seconds=-1))
    assert len(log.on_disk()) == len(log.listed())


def test_the_log_catches_up_when_somebody_asks(
    sql_engine: Engine, redis_url: str, stream_prefix: str, tmp_path: Path
) -> None:
    log = Log(sql_engine, tmp_path / "log")
    intake = prediction_process.intake(sql_engine, redis_url, stream_prefix, log.folder)
    intake._every = 600.0
    intake.start()
    try:
        assert intake.catch_up(10.0)
        use = PredictionLog(log.catalogue, log.files, Lineages(), log.clock, intake.catch_up, KEEP)
        names = ids(2)
        event = Event.of("predictions", "endpoints/late", batch(names))
        EventStreams(redis_url, stream_prefix, timeout=5.0).append("predictions", [event])
        assert use.get_prediction(names[0]).row.prediction_id == names[0]
    finally:
        intake.stop()
    assert not intake.catch_up(0.1)


class Registry(registry_pb2_grpc.RegistryServiceServicer):
    """Draws one edge, and counts how often it is asked."""

    asked = 0

    def GetLineage(  # noqa: N802
        self, request: registry_pb2.GetLineageRequest, _: object
    ) -> registry_pb2.LineageGraph:
        self.asked += 1
        return registry_pb2.LineageGraph(
            nodes=[{"name": "snapshots/ab", "kind": "snapshot"}],
            edges=[{"source": "snapshots/ab", "target": request.name}],
        )


def test_over_the_wire(log: Log) -> None:
    registry = Registry()
    around = ServiceSettings(service="serving", service_token="a-token-for-tests")
    with ServiceServer(
        around, [(registry_pb2_grpc.add_RegistryServiceServicer_to_server, registry)]
    ) as peer:
        settings = ServiceSettings(
            service="serving", service_token="a-token-for-tests", peers={"registry": peer.address}
        )
        with Peers(settings) as peers:
            use = PredictionLog(
                log.catalogue, log.files, GrpcLineages(peers), log.clock, lambda _: False, KEEP
            )
            add = predictions_pb2_grpc.add_PredictionLogServiceServicer_to_server
            with (
                ServiceServer(settings, [(add, PredictionLogApi(use))]) as server,
                open_channel(server.address, settings) as channel,
            ):
                stub = predictions_pb2_grpc.PredictionLogServiceStub(channel)
                names = ids(2)
                log.take(batch(names), batch(names, shadow=True))
                asked = predictions_pb2.GetPredictionRequest(name=f"predictions/{names[0]}")
                found = stub.GetPrediction(asked)
                assert stub.GetPrediction(asked) == found
                with pytest.raises(NotFound), calling("serving"):
                    stub.GetPrediction(
                        predictions_pb2.GetPredictionRequest(name=f"predictions/{uuid7_str()}")
                    )
    assert registry.asked == 1
    assert (found.endpoint, found.variant, found.score) == ("endpoints/late", "v1", 0.0)
    values = {each.name: each for each in found.inputs}
    assert (values["hour"].number, values["carrier"].text) == (0.0, "UA")
    assert values["delays"].WhichOneof("value") is None
    assert values["delays"].known_time.ToMicroseconds() == NOW_US - 5
    assert found.lineage.edges[0].target == V1
    assert found.shadows[0].variant == "v2"
