"""Hashes of definitions."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from feature_svc.domain.definitions import Definitions, FeatureService, FeatureView
from feature_svc.domain.documents import Definition, to_document


def definitions_hash(definitions: Definitions) -> str:
    """The sha256 in hex of all definitions as canonical JSON."""
    kinds: dict[str, Mapping[str, Definition]] = {
        "entities": definitions.entities,
        "data_sources": definitions.data_sources,
        "feature_views": definitions.feature_views,
        "feature_services": definitions.feature_services,
    }
    return _hash(
        {kind: {id_: to_document(each) for id_, each in of.items()} for kind, of in kinds.items()}
    )


def service_hash(definitions: Definitions, service: FeatureService) -> str:
    """The sha256 in hex of what decides a service's values; prose and owners are left out."""
    views = [definitions.feature_views[each] for each in service.views()]
    return _hash(
        {
            "features": [f"{ref.view}:{ref.feature}" for ref in service.features],
            "views": {view.id: _view(definitions, view, service) for view in views},
        }
    )


def _view(definitions: Definitions, view: FeatureView, service: FeatureService) -> dict[str, Any]:
    used = {ref.feature for ref in service.features if ref.view == view.id}
    return {
        "keys": [[each.join_key, each.type] for each in definitions.entities_of(view)],
        "source": view.data_source,
        "timestamp": definitions.data_sources[view.data_source].timestamp_field,
        "ttl": None if view.ttl is None else str(view.ttl),
        "types": {each.name: each.type for each in view.features if each.name in used},
    }


def _hash(document: object) -> str:
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()
