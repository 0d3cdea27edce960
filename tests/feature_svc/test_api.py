"""The feature service through its contract."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
import redis
from google.protobuf import json_format
from modelyard.data.v1 import data_pb2
from modelyard.features.v1 import features_pb2 as pb
from modelyard.features.v1 import features_pb2_grpc
from sqlalchemy import Engine

from feature_svc.domain import DataSource, FeatureView, Proposal, canonical_order, content_hash
from feature_svc.storage import Base
from service_kit.channels import calling, open_channel
from service_kit.database import migrate
from service_kit.errors import (
    DomainError,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    Unavailable,
)
from service_kit.migrations import schema_differences
from service_kit.server import ServiceServer
from service_kit.settings import ServiceSettings
from tests.feature_svc.examples import (
    D,
    S,
    T,
    apply_request,
    at,
    delays,
    fields,
    flights,
    ipc,
    planes,
    proposal,
    stamps,
)

Stub = features_pb2_grpc.FeatureServiceStub
PRESENT, NULL, NOT_FOUND, EXPIRED = 1, 2, 3, 4
SERVICE = "featureServices/late"
DAY = at(24)
FLIGHTS = flights(
    [
        ("AA", "N1", 7, 1, 10, 12),
        ("B", "N2", 7, 0, 3, 5),
        ("AA", "N1", 7, 0, 9, 30),
        ("C", "N1", 8, 1, 4, 6),
        ("AA", "N2", 7, 1, 5, None),
        ("AA", "N2", 7, 1, 20, 22),
    ]
)


@contextmanager
def refused(kind: type[DomainError], reason: str, field: str | None = None) -> Iterator[None]:
    with pytest.raises(kind) as error, calling("features"):
        yield
    assert error.value.reason == reason
    if field is not None:
        assert error.value.field == field


def ingest(features: Stub, source: str, table: Any, **more: Any) -> int:
    request = pb.IngestRowsRequest(data_source=f"dataSources/{source}", table=ipc(table), **more)
    return int(features.IngestRows(request).row_count)


def push(features: Stub, view: str, table: Any, **more: Any) -> int:
    request = pb.PushFeaturesRequest(feature_view=f"featureViews/{view}", table=ipc(table), **more)
    return int(features.PushFeatures(request).row_count)


def materialize(features: Stub, end: datetime | None = None, **more: Any) -> pb.Materialization:
    request = pb.MaterializeRequest(**more)
    if end is not None:
        request.end_time.FromDatetime(end)
    return features.Materialize(request, timeout=60)


def snapshot(
    features: Stub, start: datetime | None = None, end: datetime = DAY, **more: Any
) -> pb.Snapshot:
    request = pb.CreateSnapshotRequest(data_source="dataSources/flights", **more)
    if start is not None:
        request.start_time.FromDatetime(start)
    request.end_time.FromDatetime(end)
    return features.CreateSnapshot(request)


def training_set(features: Stub, name: str, **more: Any) -> pb.TrainingSet:
    return features.CreateTrainingSet(
        pb.CreateTrainingSetRequest(snapshot=name, feature_service=SERVICE, **more)
    )


def online(features: Stub, hours: float, *rows: tuple[str, str, int]) -> dict[str, Any]:
    request = pb.GetOnlineFeaturesRequest(feature_service=SERVICE)
    request.as_of.FromDatetime(at(hours))
    carriers, tails, gates = zip(*rows, strict=True)
    request.entities.add(name="carrier", strings=data_pb2.StringValues(values=carriers))
    request.entities.add(name="tail", strings=data_pb2.StringValues(values=tails))
    request.entities.add(name="gate", int64s=data_pb2.Int64Values(values=gates))
    return {each.name: each for each in features.GetOnlineFeatures(request).features}


def rows_of(chunks: Iterable[pb.TableChunk]) -> Any:
    parts = []
    for chunk in chunks:
        assert len(chunk.arrow_ipc) <= 1 << 20
        parts.append(pa.ipc.open_stream(io.BytesIO(chunk.arrow_ipc)).read_all())
    return pa.concat_tables(parts)


@pytest.fixture
def filled(features: Stub) -> Stub:
    features.ApplyDefinitions(apply_request())
    ingest(features, "flights", FLIGHTS)
    ingest(
        features,
        "delays",
        delays(["AA", "B", "AA", "AA"], [1.0, 2.0, 3.0, None], [1, 2, 3, 4], [1, 2, 9, 15]),
    )
    ingest(
        features,
        "planes",
        planes([("N1", 7, 100.0, "a", True, 0), ("N2", 7, 200.0, None, False, 4)]),
    )
    return features


def test_migrations_make_the_tables_of_the_models(sql_engine: Engine) -> None:
    migrate(sql_engine, "feature_svc")
    assert schema_differences(sql_engine, Base.metadata) == []


def test_definitions_are_applied_once_and_can_be_found(features: Stub) -> None:
    dry = features.ApplyDefinitions(apply_request(validate_only=True))
    assert len(dry.changes) == 9
    assert not features.ListFeatureViews(pb.ListFeatureViewsRequest()).feature_views
    first = features.ApplyDefinitions(apply_request())
    assert list(first.changes) == list(dry.changes)
    again = features.ApplyDefinitions(apply_request())
    assert (list(again.changes), again.definitions_hash) == ([], first.definitions_hash)

    view = features.GetFeatureView(pb.GetFeatureViewRequest(name="featureViews/delays"))
    assert view.ttl.ToTimedelta() == timedelta(hours=6)
    assert list(view.entities) == ["entities/carrier"]
    assert not view.HasField("last_online_time")
    service = features.GetFeatureService(pb.GetFeatureServiceRequest(name=SERVICE))
    assert list(service.join_keys) == ["tail", "gate", "carrier"]
    assert list(service.features)[:2] == ["planes:jet", "delays:mean"]
    assert len(service.definitions_hash) == 64
    names = []
    token = ""
    while True:
        page = features.ListDataSources(pb.ListDataSourcesRequest(page_size=2, page_token=token))
        names += [each.name for each in page.data_sources]
        token = page.next_page_token
        if not token:
            break
    assert names == ["dataSources/delays", "dataSources/flights", "dataSources/planes"]
    listed = features.ListFeatureServices(pb.ListFeatureServicesRequest())
    assert [each.name for each in listed.feature_services] == [SERVICE]


def test_wrong_definitions_change_nothing(features: Stub) -> None:
    request = apply_request()
    request.feature_views[1].features[0].name = "nothing"
    with refused(InvalidArgument, "UNKNOWN_COLUMN", "feature_views[1].features[0].name"):
        features.ApplyDefinitions(request)
    request = apply_request()
    request.entities[0].ClearField("type")
    with refused(InvalidArgument, "MISSING", "entities[0].type"):
        features.ApplyDefinitions(request)
    request = apply_request()
    request.feature_services[0].features[0] = "planes.jet"
    with refused(InvalidArgument, "INVALID_NAME", "feature_services[0].features[0]"):
        features.ApplyDefinitions(request)
    assert not features.ListDataSources(pb.ListDataSourcesRequest()).data_sources


def test_what_is_not_there_is_not_found(features: Stub) -> None:
    features.ApplyDefinitions(apply_request())
    sha256 = "0" * 64
    with refused(NotFound, "FEATURE_VIEW_NOT_FOUND", "name"):
        features.GetFeatureView(pb.GetFeatureViewRequest(name="featureViews/x"))
    with refused(NotFound, "FEATURE_SERVICE_NOT_FOUND", "feature_service"):
        features.GetOnlineFeatures(pb.GetOnlineFeaturesRequest(feature_service="featureServices/x"))
    with refused(NotFound, "DATA_SOURCE_NOT_FOUND", "data_source"):
        ingest(features, "x", FLIGHTS)
    with refused(NotFound, "SNAPSHOT_NOT_FOUND", "snapshot"):
        training_set(features, f"snapshots/{sha256}")
    with refused(NotFound, "SNAPSHOT_NOT_FOUND", "name"):
        rows_of(features.ReadSnapshot(pb.ReadSnapshotRequest(name=f"snapshots/{sha256}")))
    with refused(NotFound, "TRAINING_SET_NOT_FOUND", "name"):
        rows_of(features.ReadTrainingSet(pb.ReadTrainingSetRequest(name=f"trainingSets/{sha256}")))
    with refused(InvalidArgument, "INVALID_NAME", "name"):
        features.GetSnapshot(pb.GetSnapshotRequest(name="snapshots/../../etc"))


def test_rows_are_appended_and_the_very_same_rows_once(filled: Stub) -> None:
    def source() -> pb.DataSource:
        return filled.GetDataSource(pb.GetDataSourceRequest(name="dataSources/flights"))

    before = source()
    assert before.row_count == 6
    assert before.first_event_time.ToDatetime() == at(3).replace(tzinfo=None)
    assert before.last_event_time.ToDatetime() == at(20).replace(tzinfo=None)
    assert ingest(filled, "flights", FLIGHTS) == 6
    assert source().row_count == 6
    assert ingest(filled, "flights", FLIGHTS.slice(0, 0)) == 0
    assert ingest(filled, "flights", FLIGHTS.slice(0, 2), request_id="a") == 2
    assert ingest(filled, "flights", FLIGHTS.slice(0, 2), request_id="a") == 2
    assert source().row_count == 8
    with refused(InvalidArgument, "REQUEST_ID_REUSED", "request_id"):
        ingest(filled, "flights", FLIGHTS.slice(2, 2), request_id="a")
    assert source().row_count == 8


def test_bad_tables_are_refused_and_leave_nothing(filled: Stub) -> None:
    with refused(InvalidArgument, "INVALID_TABLE", "table.arrow_ipc"):
        filled.IngestRows(
            pb.IngestRowsRequest(
                data_source="dataSources/delays", table=data_pb2.Table(arrow_ipc=b"no")
            )
        )
    with refused(InvalidArgument, "MISSING", "table"):
        filled.IngestRows(pb.IngestRowsRequest(data_source="dataSources/delays"))
    with refused(InvalidArgument, "MISSING_KEY", "table.carrier"):
        ingest(filled, "delays", delays(["AA", None], [1.0] * 2, [1] * 2, [1] * 2))
    with refused(InvalidArgument, "NOT_FINITE", "table.mean"):
        push(filled, "delays", delays(["AA"], [float("inf")], [1], [1]))
    lying = ipc(delays(["\ud7ff"], [1.0], [1], [1])).arrow_ipc.replace(b"\xed\x9f\xbf", b"\xff" * 3)
    with refused(InvalidArgument, "INVALID_TABLE", "table.arrow_ipc"):
        filled.IngestRows(
            pb.IngestRowsRequest(
                data_source="dataSources/delays", table=data_pb2.Table(arrow_ipc=lying)
            )
        )
    source = filled.GetDataSource(pb.GetDataSourceRequest(name="dataSources/delays"))
    assert source.row_count == 4


def json_table(*rows: dict[str, Any]) -> data_pb2.Table:
    return json_format.ParseDict({"json": {"rows": list(rows)}}, data_pb2.Table())


ROW = {"carrier": "AA", "mean": 1.5, "count": 3, "known": "2013-01-01T02:00:00+01:00"}


def test_rows_may_come_as_json(features: Stub) -> None:
    features.ApplyDefinitions(apply_request())

    def send(*rows: dict[str, Any]) -> pb.PushFeaturesResponse:
        return features.PushFeatures(
            pb.PushFeaturesRequest(feature_view="featureViews/delays", table=json_table(*rows))
        )

    assert send(ROW, {**ROW, "carrier": "B", "mean": None}).row_count == 2
    found = online(features, 2, ("AA", "N1", 7), ("B", "N1", 7))
    assert found["mean"].doubles.values[0] == 1.5
    assert list(found["mean"].statuses) == [PRESENT, NULL]
    assert found["mean"].event_times_us[0] == at(1).timestamp() * 1e6
    for wrong, reason, field in (
        ({**ROW, "count": 1.5}, "WRONG_TYPE", "table.json.rows[1].count"),
        ({**ROW, "mean": "1"}, "WRONG_TYPE", "table.json.rows[1].mean"),
        ({**ROW, "known": "2013-01-01T00:00:00"}, "WRONG_TYPE", "table.json.rows[1].known"),
        ({"carrier": "AA"}, "UNEVEN_ROWS", "table.json.rows[1]"),
    ):
        with refused(InvalidArgument, reason, field):
            send(ROW, wrong)
    with refused(InvalidArgument, "UNKNOWN_COLUMN", "table.json.rows[0]"):
        send({**ROW, "more": 1})


def test_a_push_goes_online_and_into_history(filled: Stub) -> None:
    table = delays(["AA", "AA", "D"], [7.0, 6.0, 1.0], [7, 6, 1], [30, 29, 29])
    assert push(filled, "delays", table) == 2
    assert push(filled, "delays", delays(["AA"], [5.0], [5], [28]), request_id="p") == 0
    found = online(filled, 31, ("AA", "N1", 7), ("D", "N1", 7))
    assert list(found["mean"].doubles.values) == [7.0, 1.0]
    assert found["mean"].statuses == b""
    source = filled.GetDataSource(pb.GetDataSourceRequest(name="dataSources/delays"))
    assert source.row_count == 8
    assert push(filled, "delays", delays(["AA"], [8.0], [8], [31]), online_only=True) == 1
    source = filled.GetDataSource(pb.GetDataSourceRequest(name="dataSources/delays"))
    assert source.row_count == 8
    view = filled.GetFeatureView(pb.GetFeatureViewRequest(name="featureViews/delays"))
    assert view.last_online_time.ToDatetime() == at(31).replace(tzinfo=None)
    request = pb.GetOnlineFeaturesRequest(feature_service=SERVICE, as_of_us=[1, 2])
    for key in ("carrier", "tail"):
        request.entities.add(name=key, strings=data_pb2.StringValues(values=["AA"]))
    request.entities.add(name="gate", int64s=data_pb2.Int64Values(values=[7]))
    with refused(InvalidArgument, "UNEVEN_COLUMNS", "as_of_us"):
        filled.GetOnlineFeatures(request)
    for moment, status in ((at(37.001), EXPIRED), (at(37), PRESENT)):
        request.as_of_us[:] = [int(moment.timestamp() * 1e6)]
        found = {each.name: each for each in filled.GetOnlineFeatures(request).features}
        assert (found["mean"].statuses[0] if found["mean"].statuses else PRESENT) == status
    with refused(InvalidArgument, "MISSING_COLUMN", "table.count"):
        push(filled, "delays", table.drop_columns(["count"]))


def test_history_is_loaded_and_can_be_loaded_again_when_redis_was_lost(
    filled: Stub, settings: ServiceSettings
) -> None:
    rows = (("AA", "N1", 7), ("B", "N2", 7), ("C", "N3", 9))

    def read() -> list[tuple[str, bytes, str]]:
        return [(n, c.statuses, str(c)) for n, c in online(filled, 7.5, *rows).items()]

    done = materialize(filled, at(9))
    assert (done.row_count, len(done.feature_views)) == (4, 2)
    found = online(filled, 7.5, *rows)
    assert list(found["mean"].statuses) == [EXPIRED, PRESENT, NOT_FOUND]
    assert list(found["maker"].statuses) == [PRESENT, NULL, NOT_FOUND]
    before = read()
    with redis.Redis.from_url(settings.redis_url) as client:
        for key in client.scan_iter(match=f"*{settings.stream_prefix}*", count=10_000):
            client.delete(key)
    assert list(online(filled, 7.5, *rows)["mean"].statuses) == [NOT_FOUND] * 3
    materialize(filled, at(9))
    assert read() == before
    empty = pb.MaterializeRequest()
    empty.start_time.FromDatetime(at(90))
    empty.end_time.FromDatetime(at(91))
    assert filled.Materialize(empty).row_count == 0
    later = materialize(filled, at(10), feature_views=["featureViews/delays"])
    assert online(filled, 10, *rows)["mean"].doubles.values[0] == 3.0
    listed = filled.ListMaterializations(pb.ListMaterializationsRequest(page_size=1))
    assert [each.name for each in listed.materializations] == [later.name]
    assert listed.next_page_token
    with refused(NotFound, "FEATURE_VIEW_NOT_FOUND", "feature_views"):
        materialize(filled, at(10), feature_views=["featureViews/x"])


def test_a_snapshot_holds_what_was_known(filled: Stub) -> None:
    made = snapshot(filled, at(3), at(20), known_by_field="landed")
    rows = rows_of(filled.ReadSnapshot(pb.ReadSnapshotRequest(name=made.name)))
    assert rows.column_names == FLIGHTS.column_names
    assert rows["departed"].to_pylist() == [at(3), at(4), at(10)]
    assert made.row_count == 3
    assert snapshot(filled, at(3), at(20)).row_count == 5
    assert snapshot(filled).row_count == 6
    empty = snapshot(filled, at(100), at(101))
    assert rows_of(filled.ReadSnapshot(pb.ReadSnapshotRequest(name=empty.name))).num_rows == 0
    with refused(InvalidArgument, "OUT_OF_RANGE", "end_time"):
        snapshot(filled, at(2), at(2))
    with refused(InvalidArgument, "UNKNOWN_COLUMN", "known_by_field"):
        snapshot(filled, known_by_field="late")
    listed = filled.ListSnapshots(pb.ListSnapshotsRequest(page_size=3))
    assert [each.row_count for each in listed.snapshots] == [0, 6, 5]
    rest = filled.ListSnapshots(pb.ListSnapshotsRequest(page_token=listed.next_page_token))
    assert [each.name for each in rest.snapshots] == [made.name]


def test_a_snapshot_is_named_by_its_rows(features: Stub) -> None:
    features.ApplyDefinitions(apply_request())
    order = [5, 3, 1, 0, 2, 4]
    ingest(features, "flights", FLIGHTS.take(order).slice(0, 2))
    ingest(features, "flights", FLIGHTS.take(order).slice(2))
    made = snapshot(features)
    expected = content_hash(canonical_order(FLIGHTS, "departed"), about="flights")
    assert made.name == f"snapshots/{expected}"
    assert snapshot(features, at(1), at(30)) == made
    ingest(features, "flights", FLIGHTS.slice(0, 1))
    assert snapshot(features).name != made.name


def test_a_training_set_knows_of_each_row_what_was_known_then(filled: Stub) -> None:
    name = snapshot(filled, at(0), at(20), known_by_field="landed").name
    made = training_set(filled, name)
    assert [each.name for each in made.fields] == [
        *FLIGHTS.column_names,
        *("jet", "mean", "seats", "maker", "count"),
    ]
    rows = rows_of(filled.ReadTrainingSet(pb.ReadTrainingSetRequest(name=made.name)))
    assert rows["carrier"].to_pylist() == ["B", "C", "AA"]
    assert rows["mean"].to_pylist() == [2.0, None, 3.0]
    assert rows["seats"].to_pylist() == [None, None, 100.0]
    assert rows["jet"].to_pylist() == [None, None, True]
    service = filled.GetFeatureService(pb.GetFeatureServiceRequest(name=SERVICE))
    assert made.definitions_hash == service.definitions_hash
    assert filled.GetTrainingSet(pb.GetTrainingSetRequest(name=made.name)) == made
    assert training_set(filled, name, request_id="again") == made
    some = rows_of(filled.ReadTrainingSet(pb.ReadTrainingSetRequest(name=made.name, max_rows=2)))
    assert some["carrier"].to_pylist() == ["B", "C"]


def test_a_value_that_outlived_its_time_is_not_in_a_training_set(filled: Stub) -> None:
    ingest(filled, "flights", flights([("B", "N2", 7, 0, 8.5, 9)]))
    made = training_set(filled, snapshot(filled, at(8), at(9)).name)
    rows = rows_of(filled.ReadTrainingSet(pb.ReadTrainingSetRequest(name=made.name)))
    assert rows["mean"].to_pylist() == [None]
    assert rows["seats"].to_pylist() == [200.0]


def test_a_service_that_does_not_fit_a_snapshot_is_refused(filled: Stub) -> None:
    filled.ApplyDefinitions(
        apply_request(
            Proposal(data_sources=(DataSource("bare", fields(carrier=S, when=T), "when"),))
        )
    )
    bare = pa.table({"carrier": ["AA"], "when": stamps([1])})
    ingest(filled, "bare", bare)
    request = pb.CreateSnapshotRequest(data_source="dataSources/bare")
    request.end_time.FromDatetime(at(9))
    name = filled.CreateSnapshot(request).name
    with refused(InvalidArgument, "MISSING_ENTITY_KEY", "feature_service"):
        training_set(filled, name)


def test_a_source_with_history_may_gain_columns_only(filled: Stub) -> None:
    source = proposal().data_sources[1]
    narrower = replace(source, fields=source.fields[1:])
    with refused(FailedPrecondition, "COLUMN_CHANGED", "data_sources[0].fields"):
        filled.ApplyDefinitions(apply_request(Proposal(data_sources=(narrower,))))
    wider = replace(source, fields=(*source.fields, *fields(median=D)))
    view = FeatureView("medians", ("carrier",), "delays", fields(median=D))
    filled.ApplyDefinitions(apply_request(Proposal(data_sources=(wider,), feature_views=(view,))))
    # A push of the old view leaves the new column null.
    assert push(filled, "delays", delays(["AA"], [1.0], [1], [40])) == 1
    assert materialize(filled, feature_views=["featureViews/medians"]).row_count == 2


def test_large_tables_travel_in_chunks_of_a_mebibyte(features: Stub) -> None:
    features.ApplyDefinitions(apply_request())
    count = 70_000
    table = pa.table(
        {
            "carrier": [f"carrier-{n % 50}" for n in range(count)],
            "tail": ["x" * (n % 60) + "y" for n in range(count)],
            "gate": list(range(count)),
            "late": [0] * count,
            "departed": stamps([n / 60 for n in range(count)]),
            "landed": stamps([n / 60 for n in range(count)]),
        }
    )
    ingest(features, "flights", table)
    name = snapshot(features, end=at(count)).name
    chunks = list(features.ReadSnapshot(pb.ReadSnapshotRequest(name=name)))
    assert len(chunks) > 4
    assert rows_of(chunks).combine_chunks().equals(table.cast(rows_of(chunks).schema))


def test_many_small_parts_are_put_together_and_read_the_same(
    features: Stub, settings: ServiceSettings
) -> None:
    features.ApplyDefinitions(apply_request())
    for n in range(70):
        ingest(features, "delays", delays(["AA"], [float(n)], [n], [n // 2]))
    folder = settings.home / "features" / "history" / "delays"
    assert len(list(folder.iterdir())) == 71
    source = features.GetDataSource(pb.GetDataSourceRequest(name="dataSources/delays"))
    assert source.row_count == 70
    assert ingest(features, "delays", delays(["AA"], [3.0], [3], [1])) == 1
    source = features.GetDataSource(pb.GetDataSourceRequest(name="dataSources/delays"))
    assert source.row_count == 70
    ingest(features, "flights", flights([("AA", "N", 0, 0, 10.5, 11)]))
    made = training_set(features, snapshot(features).name)
    rows = rows_of(features.ReadTrainingSet(pb.ReadTrainingSetRequest(name=made.name)))
    # Of the two rows at 10:00 the one that came later counts.
    assert rows["count"].to_pylist() == [21]


def test_definitions_outlive_the_process(filled: Stub, settings: ServiceSettings) -> None:
    from feature_svc.__main__ import build

    name = snapshot(filled).name
    application = build(settings)
    with (
        ServiceServer(settings, application.services, application.pings) as server,
        open_channel(server.address, settings) as channel,
    ):
        other = Stub(channel)
        assert training_set(other, name).row_count == 6
        materialize(other, at(100))
    assert list(online(filled, 15, ("AA", "N1", 7))["seats"].doubles.values) == [100.0]


def test_without_redis_definitions_and_tables_still_work(settings: ServiceSettings) -> None:
    from feature_svc.__main__ import build

    away = settings.model_copy(update={"redis_url": "redis://127.0.0.1:1/0"})
    application = build(away)
    with pytest.raises(Unavailable):
        application.pings["redis"]()
    application.pings["sql"]()
    with (
        ServiceServer(away, application.services, {}) as server,
        open_channel(server.address, away) as channel,
    ):
        other = Stub(channel)
        other.ApplyDefinitions(apply_request())
        listed = other.ListFeatureViews(pb.ListFeatureViewsRequest()).feature_views
        assert [each.name for each in listed] == ["featureViews/delays", "featureViews/planes"]
        with refused(Unavailable, "ONLINE_STORE_UNAVAILABLE"):
            push(other, "delays", delays(["AA"], [1.0], [1], [1]))
        source = other.GetDataSource(pb.GetDataSourceRequest(name="dataSources/delays"))
        assert source.row_count == 0
        with refused(Unavailable, "ONLINE_STORE_UNAVAILABLE"):
            online(other, 1, ("AA", "N1", 7))
