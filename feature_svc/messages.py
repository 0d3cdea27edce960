"""Contract messages to domain values and back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import chain
from typing import Any

from google.protobuf import duration_pb2, json_format, timestamp_pb2
from modelyard.data.v1 import data_pb2
from modelyard.dataplane.v1 import dataplane_pb2
from modelyard.features.v1 import features_pb2 as pb

from feature_svc.arrow import MAX_TABLE_BYTES, from_arrow_ipc, from_json_rows
from feature_svc.domain import (
    DataSource,
    Definitions,
    Entity,
    FeatureRef,
    FeatureService,
    FeatureView,
    Field,
    Materialization,
    Proposal,
    Snapshot,
    SourceSpan,
    TrainingSet,
    ValueType,
    service_hash,
)
from feature_svc.domain.online.found import FeatureColumn, FeatureRows, Kind, Layout, Status
from feature_svc.domain.online.plan import Keys
from service_kit.errors import InvalidArgument
from service_kit.names import parse_name

_TYPES: dict[int, ValueType] = {
    pb.VALUE_TYPE_DOUBLE: ValueType.DOUBLE,
    pb.VALUE_TYPE_INT64: ValueType.INT64,
    pb.VALUE_TYPE_STRING: ValueType.STRING,
    pb.VALUE_TYPE_BOOL: ValueType.BOOL,
    pb.VALUE_TYPE_TIMESTAMP: ValueType.TIMESTAMP,
}
_KINDS = {
    Kind.NUMBER: dataplane_pb2.FeaturePlace.KIND_NUMBER,
    Kind.INTEGER: dataplane_pb2.FeaturePlace.KIND_INTEGER,
    Kind.TEXT: dataplane_pb2.FeaturePlace.KIND_TEXT,
}
_NUMBERS: dict[ValueType, Any] = {kind: number for number, kind in _TYPES.items()}


def proposal_from_message(request: pb.ApplyDefinitionsRequest) -> Proposal:
    """Reads the definitions of a request."""
    return Proposal(
        tuple(_entity(f"entities[{at}]", each) for at, each in enumerate(request.entities)),
        tuple(_source(f"data_sources[{at}]", each) for at, each in enumerate(request.data_sources)),
        tuple(_view(f"feature_views[{at}]", each) for at, each in enumerate(request.feature_views)),
        tuple(
            _service(f"feature_services[{at}]", each)
            for at, each in enumerate(request.feature_services)
        ),
    )


def _entity(path: str, message: pb.Entity) -> Entity:
    return Entity(
        id_of("entities/{entity}", message.name, f"{path}.name"),
        message.join_key,
        _type(message.type, f"{path}.type"),
        message.description,
    )


def _source(path: str, message: pb.DataSource) -> DataSource:
    return DataSource(
        id_of("dataSources/{data_source}", message.name, f"{path}.name"),
        _fields(f"{path}.fields", message.fields),
        message.timestamp_field,
        message.description,
    )


def _view(path: str, message: pb.FeatureView) -> FeatureView:
    return FeatureView(
        id=id_of("featureViews/{feature_view}", message.name, f"{path}.name"),
        entities=tuple(
            id_of("entities/{entity}", each, f"{path}.entities[{at}]")
            for at, each in enumerate(message.entities)
        ),
        data_source=id_of("dataSources/{data_source}", message.data_source, f"{path}.data_source"),
        features=_fields(f"{path}.features", message.features),
        ttl=_span(message.ttl, f"{path}.ttl") if message.HasField("ttl") else None,
        owner=message.owner,
        description=message.description,
        freshness_sla=_span(message.freshness_sla, f"{path}.freshness_sla")
        if message.HasField("freshness_sla")
        else None,
    )


def _service(path: str, message: pb.FeatureServiceDefinition) -> FeatureService:
    return FeatureService(
        id_of("featureServices/{feature_service}", message.name, f"{path}.name"),
        tuple(_ref(f"{path}.features[{at}]", each) for at, each in enumerate(message.features)),
        message.description,
        message.owner,
    )


def _ref(path: str, text: str) -> FeatureRef:
    view, _, feature = text.partition(":")
    if not view or not feature:
        raise InvalidArgument(
            "INVALID_NAME", "must have the form {feature_view}:{feature}", field=path
        )
    return FeatureRef(view, feature)


def _fields(path: str, messages: Iterable[pb.Field]) -> tuple[Field, ...]:
    return tuple(
        Field(each.name, _type(each.type, f"{path}[{at}].type"), each.description, dict(each.tags))
        for at, each in enumerate(messages)
    )


def _type(number: int, path: str) -> ValueType:
    found = _TYPES.get(number)
    if found is None:
        raise InvalidArgument("MISSING", "must be a type of column", field=path)
    return found


def _span(message: duration_pb2.Duration, path: str) -> timedelta:
    try:
        return message.ToTimedelta()
    except (ValueError, OverflowError) as error:
        raise InvalidArgument("OUT_OF_RANGE", "is no duration", field=path) from error


def id_of(pattern: str, name: str, field: str = "name") -> str:
    """The last id of a resource name."""
    return list(parse_name(pattern, name, field=field).values())[-1]


def moment(request: Any, field: str) -> datetime | None:
    """A time of a request, or nothing when it was not given."""
    if not request.HasField(field):
        return None
    try:
        found: datetime = getattr(request, field).ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError) as error:
        raise InvalidArgument("OUT_OF_RANGE", "is no timestamp", field=field) from error
    return found


def table_from_message(message: data_pb2.Table, fields: Sequence[Field]) -> Any:
    """Reads a table in either encoding; its columns are not checked yet."""
    encoding = message.WhichOneof("encoding")
    if encoding == "arrow_ipc":
        return from_arrow_ipc(message.arrow_ipc)
    if encoding != "json":
        raise InvalidArgument("MISSING", "is missing", field="table")
    if message.json.ByteSize() > MAX_TABLE_BYTES:
        raise InvalidArgument("TABLE_TOO_LARGE", "is larger than 32 MiB", field="table.json")
    try:
        rows = [json_format.MessageToDict(row) for row in message.json.rows]
    except (ValueError, json_format.Error) as error:
        raise InvalidArgument("NOT_FINITE", "holds what JSON cannot say", field="table") from error
    return from_json_rows(rows, fields)


def keys_from_message(columns: Iterable[data_pb2.Column]) -> Keys:
    """Reads the entity keys of an online read."""
    keys: dict[str, list[str] | list[int]] = {}
    for at, column in enumerate(columns):
        if column.name in keys:
            raise InvalidArgument("DUPLICATE_NAME", "appears twice", field=f"entities[{at}].name")
        encoding = column.WhichOneof("values")
        if encoding == "strings":
            keys[column.name] = list(column.strings.values)
        elif encoding == "int64s":
            keys[column.name] = list(column.int64s.values)
        else:
            raise InvalidArgument(
                "WRONG_TYPE", "must hold strings or int64s", field=f"entities[{at}]"
            )
    return keys


def column_to_message(column: FeatureColumn) -> data_pb2.Column:
    """Makes the contract's column; statuses are left out when every value is present."""
    message = data_pb2.Column(name=column.name, event_times_us=column.times)
    values: list[Any] = column.values
    if column.type is ValueType.DOUBLE:
        nan = float("nan")
        message.doubles.SetInParent()
        message.doubles.values.extend([nan if each is None else each for each in values])
    elif column.type is ValueType.STRING:
        message.strings.SetInParent()
        message.strings.values.extend([each or "" for each in values])
    else:
        message.int64s.SetInParent()
        message.int64s.values.extend([each or 0 for each in values])
    if column.statuses.count(Status.PRESENT) != len(column.statuses):
        message.statuses = column.statuses
    return message


def rows_to_message(message_id: int, found: FeatureRows) -> dataplane_pb2.ReadFeaturesResponse:
    """Makes the contract's features of rows."""
    made = dataplane_pb2.ReadFeaturesResponse(
        id=message_id,
        layout=_layout(found.layout),
        numbers=found.numbers.astype("<f8", copy=False).tobytes(),
        times=found.times.astype("<i8", copy=False).tobytes(),
        remembered=found.remembered,
    )
    if found.integers.size:
        made.integers = found.integers.astype("<i8", copy=False).tobytes()
    if found.texts and found.texts[0]:
        made.texts.extend(chain.from_iterable(found.texts))
    if found.statuses is not None:
        made.statuses = found.statuses.tobytes()
    return made


@lru_cache(maxsize=1_000)
def _layout(layout: Layout) -> bytes:
    places = [
        dataplane_pb2.FeaturePlace(
            name=place.name, kind=_KINDS[place.kind], place=place.at, view=place.view
        )
        for place in layout.places
    ]
    return dataplane_pb2.FeatureLayout(features=places).SerializeToString(deterministic=True)


def source_to_message(source: DataSource, span: SourceSpan) -> pb.DataSource:
    """Makes the contract's data source."""
    return pb.DataSource(
        name=f"dataSources/{source.id}",
        fields=_field_messages(source.fields),
        timestamp_field=source.timestamp_field,
        description=source.description,
        row_count=span.row_count,
        first_event_time=_stamp(span.first_time),
        last_event_time=_stamp(span.last_time),
    )


def view_to_message(view: FeatureView, newest: datetime | None) -> pb.FeatureView:
    """Makes the contract's feature view."""
    return pb.FeatureView(
        name=f"featureViews/{view.id}",
        entities=[f"entities/{each}" for each in view.entities],
        data_source=f"dataSources/{view.data_source}",
        features=_field_messages(view.features),
        ttl=_duration(view.ttl),
        owner=view.owner,
        description=view.description,
        freshness_sla=_duration(view.freshness_sla),
        last_online_time=_stamp(newest),
    )


def service_to_message(
    definitions: Definitions, service: FeatureService
) -> pb.FeatureServiceDefinition:
    """Makes the contract's feature service."""
    return pb.FeatureServiceDefinition(
        name=f"featureServices/{service.id}",
        features=[f"{ref.view}:{ref.feature}" for ref in service.features],
        description=service.description,
        owner=service.owner,
        join_keys=definitions.join_keys(service),
        definitions_hash=service_hash(definitions, service),
    )


def snapshot_to_message(snapshot: Snapshot) -> pb.Snapshot:
    """Makes the contract's snapshot."""
    return pb.Snapshot(
        name=f"snapshots/{snapshot.sha256}",
        data_source=f"dataSources/{snapshot.data_source}",
        start_time=_stamp(snapshot.start_time),
        end_time=_stamp(snapshot.end_time),
        row_count=snapshot.row_count,
        create_time=_stamp(snapshot.create_time),
    )


def training_set_to_message(made: TrainingSet) -> pb.TrainingSet:
    """Makes the contract's training set."""
    return pb.TrainingSet(
        name=f"trainingSets/{made.sha256}",
        snapshot=f"snapshots/{made.snapshot}",
        feature_service=f"featureServices/{made.feature_service}",
        definitions_hash=made.definitions_hash,
        fields=_field_messages(made.fields),
        row_count=made.row_count,
        create_time=_stamp(made.create_time),
    )


def materialization_to_message(done: Materialization) -> pb.Materialization:
    """Makes the contract's materialization."""
    return pb.Materialization(
        name=f"materializations/{done.id}",
        feature_views=[f"featureViews/{each}" for each in done.feature_views],
        start_time=_stamp(done.start_time),
        end_time=_stamp(done.end_time),
        row_count=done.row_count,
        complete_time=_stamp(done.complete_time),
    )


def _field_messages(fields: Iterable[Field]) -> Iterator[pb.Field]:
    for each in fields:
        yield pb.Field(
            name=each.name,
            type=_NUMBERS[each.type],
            description=each.description,
            tags=dict(each.tags),
        )


def _stamp(when: datetime | None) -> timestamp_pb2.Timestamp | None:
    if when is None:
        return None
    stamp = timestamp_pb2.Timestamp()
    stamp.FromDatetime(when)
    return stamp


def _duration(span: timedelta | None) -> duration_pb2.Duration | None:
    if span is None:
        return None
    duration = duration_pb2.Duration()
    duration.FromTimedelta(span)
    return duration
