"""Whether a definition is right and fits the others; errors name its path in the request."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from datetime import timedelta

from feature_svc.domain.definitions import (
    DataSource,
    Definitions,
    Entity,
    FeatureService,
    FeatureView,
    Field,
    ValueType,
)
from service_kit.errors import FailedPrecondition, InvalidArgument

COLUMN_PATTERN = r"^[A-Za-z_][A-Za-z0-9_]{0,62}$"
_COLUMN = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")
_KEY_TYPES = (ValueType.STRING, ValueType.INT64)


def check_entity(path: str, entity: Entity, current: Definitions) -> None:
    """Refuses an entity that is wrong, or whose key changes under views that use it."""
    _check_column(entity.join_key, f"{path}.join_key")
    if entity.type not in _KEY_TYPES:
        raise InvalidArgument(
            "WRONG_TYPE", "an entity key is a string or an int64", field=f"{path}.type"
        )
    before = current.entities.get(entity.id)
    if before is None or (before.join_key, before.type) == (entity.join_key, entity.type):
        return
    if any(entity.id in view.entities for view in current.feature_views.values()):
        raise FailedPrecondition(
            "ENTITY_IN_USE", "feature views use its key", field=f"{path}.join_key"
        )


def check_source(path: str, source: DataSource, current: Definitions) -> None:
    """Refuses a source that is wrong, or that drops or retypes a column of its history."""
    _check_fields(source.fields, f"{path}.fields")
    if source.type_of(source.timestamp_field) is not ValueType.TIMESTAMP:
        raise InvalidArgument(
            "UNKNOWN_COLUMN",
            "must name a column of type timestamp",
            field=f"{path}.timestamp_field",
        )
    before = current.data_sources.get(source.id)
    if before is None:
        return
    if before.timestamp_field != source.timestamp_field:
        raise FailedPrecondition("COLUMN_CHANGED", "cannot change", field=f"{path}.timestamp_field")
    for each in before.fields:
        if source.type_of(each.name) is not each.type:
            raise FailedPrecondition(
                "COLUMN_CHANGED",
                f"column {each.name} cannot be dropped or change its type",
                field=f"{path}.fields",
            )


def check_view(path: str, view: FeatureView, merged: Definitions) -> None:
    """Refuses a view that is wrong or does not fit its entities and its source."""
    source = merged.data_sources.get(view.data_source)
    if source is None:
        raise _unknown(f"{path}.data_source", "data source")
    keys = _check_keys(path, view, source, merged)
    _check_fields(view.features, f"{path}.features")
    for at, feature in enumerate(view.features):
        _check_feature(f"{path}.features[{at}]", feature, source, keys)
    _check_span(view.ttl, f"{path}.ttl")
    _check_span(view.freshness_sla, f"{path}.freshness_sla")


def check_service(path: str, service: FeatureService, merged: Definitions) -> None:
    """Refuses a service with unknown features, or whose columns would share a name."""
    if not service.features:
        raise InvalidArgument("MISSING", "needs at least one feature", field=f"{path}.features")
    seen: set[str] = set()
    for at, ref in enumerate(service.features):
        field = f"{path}.features[{at}]"
        view = merged.feature_views.get(ref.view)
        if view is None:
            raise _unknown(field, "feature view")
        if view.feature(ref.feature) is None:
            raise _unknown(field, "feature of the view")
        if ref.feature in seen:
            raise InvalidArgument("DUPLICATE_NAME", "two features have the same name", field=field)
        seen.add(ref.feature)
    if seen & set(merged.join_keys(service)):
        raise InvalidArgument(
            "DUPLICATE_NAME", "a feature is named like an entity key", field=f"{path}.features"
        )


def check_others(merged: Definitions, proposed: Collection[str], views: Sequence[str]) -> None:
    """Refuses views whose change would leave a service without a feature that it reads."""
    for service in merged.feature_services.values():
        if service.id in proposed or not set(service.views()) & set(views):
            continue
        try:
            check_service("", service, merged)
        except InvalidArgument as error:
            at = next(at for at, view in enumerate(views) if view in service.views())
            raise FailedPrecondition(
                "FEATURE_IN_USE",
                f"featureServices/{service.id} would no longer be readable",
                field=f"feature_views[{at}].features",
            ) from error


def _check_keys(
    path: str, view: FeatureView, source: DataSource, merged: Definitions
) -> frozenset[str]:
    if not view.entities:
        raise InvalidArgument("MISSING", "needs at least one entity", field=f"{path}.entities")
    keys: set[str] = set()
    for at, id_ in enumerate(view.entities):
        field = f"{path}.entities[{at}]"
        entity = merged.entities.get(id_)
        if entity is None:
            raise _unknown(field, "entity")
        if source.type_of(entity.join_key) is not entity.type:
            raise InvalidArgument(
                "UNKNOWN_COLUMN",
                f"the source has no column {entity.join_key} of type {entity.type}",
                field=field,
            )
        if entity.join_key in keys:
            raise InvalidArgument("DUPLICATE_NAME", "its key is there already", field=field)
        keys.add(entity.join_key)
    return frozenset(keys)


def _check_feature(path: str, feature: Field, source: DataSource, keys: frozenset[str]) -> None:
    if feature.name in keys:
        raise InvalidArgument("DUPLICATE_NAME", "is an entity key", field=f"{path}.name")
    found = source.type_of(feature.name)
    if found is None:
        raise InvalidArgument(
            "UNKNOWN_COLUMN", "is not a column of the data source", field=f"{path}.name"
        )
    if feature.type is ValueType.TIMESTAMP:
        raise InvalidArgument(
            "WRONG_TYPE", "a feature is a double, an int64, a string or a bool",
            field=f"{path}.type",
        )  # fmt: skip
    if found is not feature.type:
        raise InvalidArgument(
            "WRONG_TYPE", "differs from the column of the data source", field=f"{path}.type"
        )


def _check_fields(fields: Sequence[Field], path: str) -> None:
    if not fields:
        raise InvalidArgument("MISSING", "needs at least one column", field=path)
    seen: set[str] = set()
    for at, each in enumerate(fields):
        _check_column(each.name, f"{path}[{at}].name")
        if each.name in seen:
            raise InvalidArgument("DUPLICATE_NAME", "appears twice", field=f"{path}[{at}].name")
        seen.add(each.name)


def _check_column(name: str, field: str) -> None:
    if _COLUMN.fullmatch(name) is None:
        raise InvalidArgument("INVALID_NAME", f"must match {COLUMN_PATTERN}", field=field)


def _check_span(span: timedelta | None, field: str) -> None:
    if span is not None and span <= timedelta():
        raise InvalidArgument("OUT_OF_RANGE", "must be positive", field=field)


def _unknown(field: str, what: str) -> InvalidArgument:
    return InvalidArgument("UNKNOWN_REFERENCE", f"names no known {what}", field=field)
