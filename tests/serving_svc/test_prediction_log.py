"""The prediction log on real files, databases and Redis: exactly once, found fast, forgotten."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from modelyard.events.v1 import events_pb2
from modelyard.registry.v1 import registry_pb2, registry_pb2_grpc
from modelyard.serving.v1 import predictions_pb2, predictions_pb2_grpc
from sqlalchemy import Engine

from service_kit.channels import Peers, calling, open_channel
from service_kit.database import transaction
from service_kit.errors import DomainError, NotFound, Unavailable
from service_kit.ids import uuid7_str
from service_kit.server import ServiceServer
from service_kit.settings import ServiceSettings
from serving_svc.api import PredictionLogApi
from serving_svc.domain.predictions import MERGE_FILES, LogFile, asked_at
from serving_svc.lineage import GrpcLineages
from serving_svc.prediction_log import PairReader, PredictionFiles
from serving_svc.service.predictions import Lineage, LogCare, PredictionLog
from serving_svc.service.shadows import ShadowService
from serving_svc.storage.prediction_files import SqlPredictionCatalogue
from tests.arrow import TIME
from tests.serving_svc.prediction_rows import (
    KEEP,
    NOW_US,
    Lineages,
    Log,
    batch,
    id_at,
    ids,
    refused,
)
from tests.serving_svc.world import V1, V2, Killed, World


@pytest.fixture
def log(sql_engine: Engine, tmp_path: Path) -> Log:
    return Log(sql_engine, tmp_path / "log")


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


def test_what_stood_in_for_an_answer_is_of_no_version(log: Log) -> None:
    names = ids(3)
    fallbacks = ["last_answer", "default", "champion"]
    log.take(batch(names, columns={"fallback": fallbacks}))
    found = [log.use.get_prediction(name) for name in names]
    assert [each.row.fallback for each in found] == fallbacks
    assert [(each.row.variant, each.row.model_version) for each in found] == [
        *(("", ""), ("", ""), ("v1", V1))
    ]
    assert [each.lineage_missing for each in found] == ["NO_MODEL_ANSWERED"] * 2 + [""]


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


def test_whether_an_answer_was_kept_is_known_where_answers_are(log: Log) -> None:
    names = ids(3)
    kept = batch(names[:2], columns={"cached": [False, True]})
    log.take(kept, batch(names[2:]))
    found = [log.use.get_prediction(name).row.cached for name in names]
    assert found == [False, True, False]


def test_one_id_and_version_is_one_row(log: Log) -> None:
    names = ids(3)
    log.take(batch(names), batch(names[1:]), batch(names, shadow=True))
    assert log.rows() == Counter(names * 2)


def test_other_columns_are_other_files(log: Log) -> None:
    (name,) = ids(1)
    log.take(batch(ids(1)), batch([name], columns={"input.more": [3.0]}))
    assert len(log.listed()) == 2
    assert log.use.get_prediction(name).row.inputs["more"] == 3


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


LATE_ID = "ffffffff-ffff-7000-8000-000000000000"
UNSOUND = {
    "a path for an endpoint": {"endpoint": "endpoints/../../etc"},
    "no prediction's id": {"columns": {"prediction_id": ["not-an-id"]}},
    "an id after the last day": {"columns": {"prediction_id": [LATE_ID]}},
    "no id at all": {"columns": {"prediction_id": pa.array([None], pa.string())}},
    "no event time": {"columns": {"event_time": pa.array([None], TIME)}},
    "words for a score": {"columns": {"score": ["high"]}},
    "a list for an input": {"columns": {"input.hour": [[1.0, 2.0]]}},
    "words for a time": {"columns": {"known.delays": ["yesterday"]}},
}


@pytest.mark.parametrize("wrong", UNSOUND.values(), ids=UNSOUND.keys())
def test_what_is_not_sound_is_refused_whole(tmp_path: Path, wrong: dict[str, Any]) -> None:
    assert_refused(tmp_path, batch(ids(1), **wrong))


@pytest.mark.parametrize("at", [0, 9, 200, -9])
def test_what_is_no_whole_arrow_stream_is_refused(tmp_path: Path, at: int) -> None:
    made = batch(ids(1))
    made.rows = made.rows[:at]
    assert_refused(tmp_path, made)


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    made = batch(names := ids(1))
    table = pa.table([pa.array(names)] * 2, names=["prediction_id"] * 2)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    made.rows = sink.getvalue().to_pybytes()
    assert_refused(tmp_path, made)


def assert_refused(folder: Path, made: events_pb2.PredictionBatch) -> None:
    with pytest.raises((ValueError, DomainError)):
        PredictionFiles(folder).write([made])
    assert list(folder.rglob("*.parquet")) == []


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


def no_shadows(log: Log) -> ShadowService:
    reader = PairReader(log.folder)
    return ShadowService(World(log.engine).store, log.catalogue, reader, log.clock, log.catch_up)


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
                ServiceServer(settings, [(add, PredictionLogApi(use, no_shadows(log)))]) as server,
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
