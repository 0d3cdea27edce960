"""The gRPC face of the feature service."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol, TypeAlias, TypeVar

import grpc
from google.protobuf.message import Message
from modelyard.features.v1 import features_pb2 as pb
from modelyard.features.v1 import features_pb2_grpc

from feature_svc import messages as to
from feature_svc.arrow import to_chunks
from feature_svc.domain import FeatureView, definitions_hash
from feature_svc.service import (
    Catalog,
    CurrentDefinitions,
    FrozenTables,
    Histories,
    OnlineFeatures,
    Records,
)
from feature_svc.service.catalog import find_service, find_source, find_view
from service_kit.errors import InvalidArgument, NotFound, Unavailable
from service_kit.ledger import Ledger
from service_kit.paging import encode_token, page_params

Context: TypeAlias = grpc.ServicerContext
SOURCE = "dataSources/{data_source}"
VIEW = "featureViews/{feature_view}"
SERVICE = "featureServices/{feature_service}"
SNAPSHOT = "snapshots/{snapshot}"
TRAINING_SET = "trainingSets/{training_set}"


class Paged(Protocol):
    """A request for a page."""

    page_size: int
    page_token: str


M = TypeVar("M", bound=Message)
T = TypeVar("T")


class FeatureApi(features_pb2_grpc.FeatureServiceServicer):
    """Serves `modelyard.features.v1.FeatureService`."""

    def __init__(
        self,
        ledger: Ledger[Records],
        catalog: Catalog,
        current: CurrentDefinitions,
        histories: Histories,
        frozen: FrozenTables,
        online: OnlineFeatures,
        applied: Callable[[], None],
    ) -> None:
        self._ledger = ledger
        self._catalog = catalog
        self._current = current
        self._histories = histories
        self._frozen = frozen
        self._online = online
        self._applied = applied

    def ApplyDefinitions(
        self, request: pb.ApplyDefinitionsRequest, context: Context
    ) -> pb.ApplyDefinitionsResponse:
        proposal = to.proposal_from_message(request)

        def effect(records: Records) -> pb.ApplyDefinitionsResponse:
            applied = self._catalog.apply(records, proposal, validate_only=request.validate_only)
            return pb.ApplyDefinitionsResponse(
                changes=applied.changes, definitions_hash=definitions_hash(applied.definitions)
            )

        answer = self._ledger.once(request, pb.ApplyDefinitionsResponse, effect)
        self._current.expire()
        self._applied()
        return answer

    def GetFeatureView(self, request: pb.GetFeatureViewRequest, context: Context) -> pb.FeatureView:
        _, definitions = self._current.get()
        return self._views([find_view(definitions, to.id_of(VIEW, request.name))])[0]

    def ListFeatureViews(
        self, request: pb.ListFeatureViewsRequest, context: Context
    ) -> pb.ListFeatureViewsResponse:
        _, definitions = self._current.get()
        shown, more = _page(request, definitions.feature_views)
        return pb.ListFeatureViewsResponse(feature_views=self._views(shown), next_page_token=more)

    def GetFeatureService(
        self, request: pb.GetFeatureServiceRequest, context: Context
    ) -> pb.FeatureServiceDefinition:
        _, definitions = self._current.get()
        found = find_service(definitions, to.id_of(SERVICE, request.name))
        return to.service_to_message(definitions, found)

    def ListFeatureServices(
        self, request: pb.ListFeatureServicesRequest, context: Context
    ) -> pb.ListFeatureServicesResponse:
        _, definitions = self._current.get()
        shown, more = _page(request, definitions.feature_services)
        return pb.ListFeatureServicesResponse(
            feature_services=[to.service_to_message(definitions, each) for each in shown],
            next_page_token=more,
        )

    def GetDataSource(self, request: pb.GetDataSourceRequest, context: Context) -> pb.DataSource:
        _, definitions = self._current.get()
        source = find_source(definitions, to.id_of(SOURCE, request.name))
        with self._ledger.reading() as records:
            return to.source_to_message(source, records.span(source.id))

    def ListDataSources(
        self, request: pb.ListDataSourcesRequest, context: Context
    ) -> pb.ListDataSourcesResponse:
        _, definitions = self._current.get()
        shown, more = _page(request, definitions.data_sources)
        with self._ledger.reading() as records:
            found = [to.source_to_message(each, records.span(each.id)) for each in shown]
        return pb.ListDataSourcesResponse(data_sources=found, next_page_token=more)

    def IngestRows(self, request: pb.IngestRowsRequest, context: Context) -> pb.IngestRowsResponse:
        _, definitions = self._current.get()
        id_ = to.id_of(SOURCE, request.data_source, "data_source")
        source = find_source(definitions, id_, field="data_source")
        table = to.table_from_message(request.table, source.fields)
        table = self._histories.checked(definitions, source, table)
        part = self._histories.write(source, table)

        def effect(records: Records) -> pb.IngestRowsResponse:
            self._histories.record(records, source, part)
            return pb.IngestRowsResponse(row_count=table.num_rows)

        answer = self._ledger.once(request, pb.IngestRowsResponse, effect)
        self._histories.compact(self._ledger.writing, source)
        return answer

    def PushFeatures(
        self, request: pb.PushFeaturesRequest, context: Context
    ) -> pb.PushFeaturesResponse:
        _, definitions = self._current.get()
        id_ = to.id_of(VIEW, request.feature_view, "feature_view")
        view = find_view(definitions, id_, field="feature_view")
        source = definitions.data_sources[view.data_source]
        table = to.table_from_message(request.table, source.fields)
        table = self._online.checked(definitions, view, table)
        part = None if request.online_only else self._histories.write(source, table)

        def effect(records: Records | None) -> pb.PushFeaturesResponse:
            if records is not None:
                self._histories.record(records, source, part)
            return pb.PushFeaturesResponse(row_count=self._online.push(definitions, view, table))

        if part is None and not request.request_id:
            # Nothing to record, so nothing waits for the database.
            return effect(None)
        answer = self._ledger.once(request, pb.PushFeaturesResponse, effect)
        if part is not None:
            self._histories.compact(self._ledger.writing, source)
        return answer

    def Materialize(self, request: pb.MaterializeRequest, context: Context) -> pb.Materialization:
        _, definitions = self._current.get()
        views = [
            to.id_of(VIEW, each, f"feature_views[{at}]")
            for at, each in enumerate(request.feature_views)
        ]
        start, end = to.moment(request, "start_time"), to.moment(request, "end_time")
        with self._ledger.reading() as records:
            done = self._online.load(records, definitions, views, start, end)

        def effect(records: Records) -> pb.Materialization:
            records.add_materialization(done)
            return to.materialization_to_message(done)

        return self._ledger.once(request, pb.Materialization, effect)

    def ListMaterializations(
        self, request: pb.ListMaterializationsRequest, context: Context
    ) -> pb.ListMaterializationsResponse:
        page = page_params(request.page_size, request.page_token)
        with self._ledger.reading() as records:
            found = records.materializations(page.offset_token, page.size + 1)
        shown = found[: page.size]
        return pb.ListMaterializationsResponse(
            materializations=[to.materialization_to_message(each) for each in shown],
            next_page_token=encode_token(shown[-1].id) if len(found) > page.size else "",
        )

    def GetOnlineFeatures(
        self, request: pb.GetOnlineFeaturesRequest, context: Context
    ) -> pb.GetOnlineFeaturesResponse:
        found = self._online.read(
            to.id_of(SERVICE, request.feature_service, "feature_service"),
            to.keys_from_message(request.entities),
            to.moment(request, "as_of"),
            request.as_of_us,
        )
        return pb.GetOnlineFeaturesResponse(
            features=[to.column_to_message(each) for each in found.columns()],
            remembered=found.remembered,
        )

    def CreateSnapshot(self, request: pb.CreateSnapshotRequest, context: Context) -> pb.Snapshot:
        _, definitions = self._current.get()
        id_ = to.id_of(SOURCE, request.data_source, "data_source")
        source = find_source(definitions, id_, field="data_source")
        start, end = to.moment(request, "start_time"), to.moment(request, "end_time")
        if end is None:
            raise InvalidArgument("MISSING", "is missing", field="end_time")
        with self._ledger.reading() as records:
            made = self._frozen.freeze_snapshot(records, source, start, end, request.known_by_field)

        def effect(records: Records) -> pb.Snapshot:
            records.lock_source(source.id)
            return to.snapshot_to_message(records.add_snapshot(made))

        return self._ledger.once(request, pb.Snapshot, effect)

    def GetSnapshot(self, request: pb.GetSnapshotRequest, context: Context) -> pb.Snapshot:
        with self._ledger.reading() as records:
            found = records.snapshot(to.id_of(SNAPSHOT, request.name))
        return to.snapshot_to_message(_there(found, "SNAPSHOT_NOT_FOUND"))

    def ListSnapshots(
        self, request: pb.ListSnapshotsRequest, context: Context
    ) -> pb.ListSnapshotsResponse:
        page = page_params(request.page_size, request.page_token)
        with self._ledger.reading() as records:
            found = records.snapshots(_position(page.offset_token), page.size + 1)
        shown = found[: page.size]
        return pb.ListSnapshotsResponse(
            snapshots=[to.snapshot_to_message(each) for _, each in shown],
            next_page_token=encode_token(str(shown[-1][0])) if len(found) > page.size else "",
        )

    def ReadSnapshot(
        self, request: pb.ReadSnapshotRequest, context: Context
    ) -> Iterator[pb.TableChunk]:
        sha256 = to.id_of(SNAPSHOT, request.name)
        with self._ledger.reading() as records:
            _there(records.snapshot(sha256), "SNAPSHOT_NOT_FOUND")
        return self._chunks(sha256, 0)

    def CreateTrainingSet(
        self, request: pb.CreateTrainingSetRequest, context: Context
    ) -> pb.TrainingSet:
        _, definitions = self._current.get()
        id_ = to.id_of(SERVICE, request.feature_service, "feature_service")
        service = find_service(definitions, id_, field="feature_service")
        sha256 = to.id_of(SNAPSHOT, request.snapshot, "snapshot")
        with self._ledger.reading() as records:
            snapshot = _there(records.snapshot(sha256), "SNAPSHOT_NOT_FOUND", "snapshot")
            made = self._frozen.freeze_training_set(records, definitions, snapshot, service)

        def effect(records: Records) -> pb.TrainingSet:
            records.lock_source(snapshot.data_source)
            return to.training_set_to_message(records.add_training_set(made))

        return self._ledger.once(request, pb.TrainingSet, effect)

    def GetTrainingSet(self, request: pb.GetTrainingSetRequest, context: Context) -> pb.TrainingSet:
        with self._ledger.reading() as records:
            found = records.training_set(to.id_of(TRAINING_SET, request.name))
        return to.training_set_to_message(_there(found, "TRAINING_SET_NOT_FOUND"))

    def ReadTrainingSet(
        self, request: pb.ReadTrainingSetRequest, context: Context
    ) -> Iterator[pb.TableChunk]:
        sha256 = to.id_of(TRAINING_SET, request.name)
        with self._ledger.reading() as records:
            _there(records.training_set(sha256), "TRAINING_SET_NOT_FOUND")
        return self._chunks(sha256, request.max_rows)

    def _chunks(self, sha256: str, max_rows: int) -> Iterator[pb.TableChunk]:
        for table in self._frozen.read(sha256, max_rows):
            for chunk in to_chunks(table):
                yield pb.TableChunk(arrow_ipc=chunk)

    def _views(self, views: Sequence[FeatureView]) -> list[pb.FeatureView]:
        made = []
        answers = True
        for view in views:
            newest = None
            try:
                newest = self._online.newest(view.id) if answers else None
            except Unavailable:
                # Definitions can be read without the online store.
                answers = False
            made.append(to.view_to_message(view, newest))
        return made


def _page(request: Paged, items: Mapping[str, T]) -> tuple[list[T], str]:
    """A page of definitions by id, and the token of the next one."""
    page = page_params(request.page_size, request.page_token)
    ids = sorted(id_ for id_ in items if id_ > page.offset_token)
    shown = ids[: page.size]
    return [items[id_] for id_ in shown], encode_token(shown[-1]) if len(ids) > page.size else ""


def _there(found: T | None, reason: str, field: str = "name") -> T:
    if found is None:
        raise NotFound(reason, "there is no such table", field=field)
    return found


def _position(token: str) -> int | None:
    if token and not token.isdecimal():
        raise InvalidArgument(
            "INVALID_PAGE_TOKEN", "must be the next_page_token of an answer", field="page_token"
        )
    return int(token) if token else None
