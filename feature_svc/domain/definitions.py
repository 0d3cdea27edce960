"""What features are: entities, sources, views and services."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum


class ValueType(StrEnum):
    """Type of a column."""

    DOUBLE = "double"
    INT64 = "int64"
    STRING = "string"
    BOOL = "bool"
    TIMESTAMP = "timestamp"


@dataclass(frozen=True, slots=True)
class Field:
    """A column with its type."""

    name: str
    type: ValueType
    description: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Entity:
    """What features are about; `join_key` is the column that identifies it."""

    id: str
    join_key: str
    type: ValueType
    description: str = ""


@dataclass(frozen=True, slots=True)
class DataSource:
    """A table with a history; `timestamp_field` says when a row became known."""

    id: str
    fields: tuple[Field, ...]
    timestamp_field: str
    description: str = ""

    def type_of(self, column: str) -> ValueType | None:
        """Type of a column, or nothing when there is no such column."""
        return next((each.type for each in self.fields if each.name == column), None)


@dataclass(frozen=True, slots=True)
class FeatureView:
    """Features of one kind of entity, from one source; a value holds for `ttl`."""

    id: str
    entities: tuple[str, ...]
    data_source: str
    features: tuple[Field, ...]
    ttl: timedelta | None = None
    owner: str = ""
    description: str = ""
    freshness_sla: timedelta | None = None

    def feature(self, name: str) -> Field | None:
        """A feature by its name."""
        return next((each for each in self.features if each.name == name), None)


@dataclass(frozen=True, slots=True)
class FeatureRef:
    """A feature of a view."""

    view: str
    feature: str


@dataclass(frozen=True, slots=True)
class FeatureService:
    """Features that a model reads together, in order."""

    id: str
    features: tuple[FeatureRef, ...]
    description: str = ""
    owner: str = ""

    def views(self) -> tuple[str, ...]:
        """Ids of its views, in order of first mention."""
        return tuple(dict.fromkeys(ref.view for ref in self.features))


@dataclass(frozen=True, slots=True)
class Definitions:
    """All definitions in force, by id."""

    entities: Mapping[str, Entity] = field(default_factory=dict)
    data_sources: Mapping[str, DataSource] = field(default_factory=dict)
    feature_views: Mapping[str, FeatureView] = field(default_factory=dict)
    feature_services: Mapping[str, FeatureService] = field(default_factory=dict)

    def entities_of(self, view: FeatureView) -> tuple[Entity, ...]:
        """Entities of a view, in its order."""
        return tuple(self.entities[each] for each in view.entities)

    def join_keys_of_view(self, view: FeatureView) -> tuple[str, ...]:
        """Columns that identify a row of a view."""
        return tuple(each.join_key for each in self.entities_of(view))

    def join_keys(self, service: FeatureService) -> tuple[str, ...]:
        """Entity keys needed to read a service, in order of first mention."""
        views = (self.feature_views[each] for each in service.views())
        return tuple(dict.fromkeys(key for view in views for key in self.join_keys_of_view(view)))

    def key_types(self, service: FeatureService) -> dict[str, ValueType]:
        """Type of each entity key of a service."""
        views = (self.feature_views[each] for each in service.views())
        return {each.join_key: each.type for view in views for each in self.entities_of(view)}

    def keys_of_source(self, source: str) -> frozenset[str]:
        """Columns of a source that identify entities for some view."""
        views = (each for each in self.feature_views.values() if each.data_source == source)
        return frozenset(key for view in views for key in self.join_keys_of_view(view))
