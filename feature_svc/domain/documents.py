"""Definitions as plain JSON documents, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import timedelta
from typing import Any, TypeAlias

from feature_svc.domain.definitions import (
    DataSource,
    Entity,
    FeatureRef,
    FeatureService,
    FeatureView,
    Field,
    ValueType,
)

Definition: TypeAlias = Entity | DataSource | FeatureView | FeatureService
_MICROSECOND = timedelta(microseconds=1)


def to_document(definition: Definition) -> dict[str, Any]:
    """A definition as JSON; spans of time are whole microseconds."""
    return {name: _plain(value) for name, value in asdict(definition).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, timedelta):
        return value // _MICROSECOND
    return list(value) if isinstance(value, tuple) else value


def entity(document: Mapping[str, Any]) -> Entity:
    """An entity of its document."""
    return Entity(**{**document, "type": ValueType(document["type"])})


def data_source(document: Mapping[str, Any]) -> DataSource:
    """A data source of its document."""
    return DataSource(**{**document, "fields": fields(document["fields"])})


def feature_view(document: Mapping[str, Any]) -> FeatureView:
    """A feature view of its document."""
    changed = {
        "entities": tuple(document["entities"]),
        "features": fields(document["features"]),
        "ttl": _span(document["ttl"]),
        "freshness_sla": _span(document["freshness_sla"]),
    }
    return FeatureView(**{**document, **changed})


def feature_service(document: Mapping[str, Any]) -> FeatureService:
    """A feature service of its document."""
    refs = tuple(FeatureRef(**each) for each in document["features"])
    return FeatureService(**{**document, "features": refs})


def fields(documents: list[dict[str, Any]]) -> tuple[Field, ...]:
    """Columns of their documents."""
    return tuple(Field(**{**each, "type": ValueType(each["type"])}) for each in documents)


def field_document(field: Field) -> dict[str, Any]:
    """A column as JSON."""
    return asdict(field)


def _span(microseconds: int | None) -> timedelta | None:
    return None if microseconds is None else timedelta(microseconds=microseconds)
