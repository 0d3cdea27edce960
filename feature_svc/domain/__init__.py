"""The rules of features: definitions, tables, and the point-in-time join."""

from feature_svc.domain.applying import Applied, Proposal, apply
from feature_svc.domain.definitions import (
    DataSource,
    Definitions,
    Entity,
    FeatureRef,
    FeatureService,
    FeatureView,
    Field,
    ValueType,
)
from feature_svc.domain.hashing import definitions_hash, service_hash
from feature_svc.domain.joining import latest_rows, point_in_time_rows
from feature_svc.domain.records import (
    HistoryFile,
    Materialization,
    Part,
    Snapshot,
    SourceSpan,
    TrainingSet,
)
from feature_svc.domain.tables import (
    TableRules,
    canonical_order,
    conform,
    content_hash,
    evenly_spread,
    schema_of,
)

__all__ = [
    "Applied",
    "DataSource",
    "Definitions",
    "Entity",
    "FeatureRef",
    "FeatureService",
    "FeatureView",
    "Field",
    "HistoryFile",
    "Materialization",
    "Part",
    "Proposal",
    "Snapshot",
    "SourceSpan",
    "TableRules",
    "TrainingSet",
    "ValueType",
    "apply",
    "canonical_order",
    "conform",
    "content_hash",
    "definitions_hash",
    "evenly_spread",
    "latest_rows",
    "point_in_time_rows",
    "schema_of",
    "service_hash",
]
