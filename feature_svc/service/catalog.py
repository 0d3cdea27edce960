"""Definitions: applying them, finding them, and knowing the present ones without asking SQL."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from feature_svc.domain import (
    Applied,
    DataSource,
    Definitions,
    FeatureService,
    FeatureView,
    Proposal,
    apply,
)
from feature_svc.service.ports import Records
from service_kit.errors import NotFound, Unavailable

SECONDS_OLD = 1.0
T = TypeVar("T")
_log = logging.getLogger(__name__)


class Catalog:
    """The catalog of definitions."""

    def apply(self, records: Records, proposal: Proposal, *, validate_only: bool) -> Applied:
        """Applies definitions, all or none of them."""
        if validate_only:
            return apply(records.definitions(), proposal)
        before = records.definitions_for_update()
        applied = apply(before, proposal)
        if applied.changes:
            records.save_definitions(before, applied.definitions)
        return applied


def find_source(definitions: Definitions, id_: str, *, field: str = "name") -> DataSource:
    """A data source; raises NotFound."""
    return _found(definitions.data_sources.get(id_), "DATA_SOURCE_NOT_FOUND", field)


def find_view(definitions: Definitions, id_: str, *, field: str = "name") -> FeatureView:
    """A feature view; raises NotFound."""
    return _found(definitions.feature_views.get(id_), "FEATURE_VIEW_NOT_FOUND", field)


def find_service(definitions: Definitions, id_: str, *, field: str = "name") -> FeatureService:
    """A feature service; raises NotFound."""
    return _found(definitions.feature_services.get(id_), "FEATURE_SERVICE_NOT_FOUND", field)


def _found(found: T | None, reason: str, field: str) -> T:
    if found is None:
        raise NotFound(reason, "there is no such definition", field=field)
    return found


class CurrentDefinitions:
    """The definitions in force, at most a second old, or older while SQL does not answer.

    Args:
        load: Gives the generation of the definitions, and the definitions unless the generation
            is the one that it is given.
    """

    def __init__(self, load: Callable[[int | None], tuple[int, Definitions | None]]) -> None:
        self._load = load
        self._lock = threading.Lock()
        self._generation: int | None = None
        self._definitions = Definitions()
        self._until = 0.0

    @property
    def fresh(self) -> bool:
        """Whether they can be had without asking SQL."""
        return self._generation is not None and time.monotonic() < self._until

    def get(self) -> tuple[int, Definitions]:
        """The generation and the definitions."""
        generation = self._generation
        if generation is not None and time.monotonic() < self._until:
            return generation, self._definitions
        with self._lock:
            return self._refreshed()

    def expire(self) -> None:
        """Says that they have changed."""
        self._until = 0.0

    def _refreshed(self) -> tuple[int, Definitions]:
        if self._generation is None or time.monotonic() >= self._until:
            try:
                generation, definitions = self._load(self._generation)
            except Unavailable:
                if self._generation is None:
                    raise
                _log.warning("definitions could not be refreshed")
                generation, definitions = self._generation, None
            if definitions is not None:
                self._definitions = definitions
            # From now on: a database that hangs is not asked again by each who has waited for it.
            self._generation, self._until = generation, time.monotonic() + SECONDS_OLD
        return self._generation, self._definitions
