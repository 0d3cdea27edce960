"""Online features: reading them, pushing new ones, loading them from history."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import pyarrow as pa

from feature_svc.domain import (
    DataSource,
    Definitions,
    FeatureView,
    Materialization,
    TableRules,
    conform,
    latest_rows,
)
from feature_svc.domain.online.found import FeatureRows
from feature_svc.domain.online.plan import Keys
from feature_svc.domain.online.rows import encode_rows
from feature_svc.service.catalog import CurrentDefinitions, find_view
from feature_svc.service.histories import Histories
from feature_svc.service.ports import Loader, OnlineStore, Records
from feature_svc.service.reading import EPOCH, OnlineReads, Wanted, micros
from feature_svc.service.remembered import RememberedReplies
from service_kit.clock import Clock
from service_kit.errors import InvalidArgument
from service_kit.ids import uuid7_str


class OnlineFeatures:
    """The newest values of each entity."""

    def __init__(
        self,
        clock: Clock,
        current: CurrentDefinitions,
        store: OnlineStore,
        histories: Histories,
        loader: Loader,
        memory: RememberedReplies,
    ) -> None:
        self._clock = clock
        self._reads = OnlineReads(clock, current, store, memory)
        self._store = store
        self._histories = histories
        self._loader = loader
        self._memory = memory

    def read(
        self, service: str, keys: Keys, as_of: datetime | None, as_of_us: Sequence[int]
    ) -> FeatureRows:
        """Features of entities.

        Args:
            service: Id of a feature service.
            keys: A column of n values for each join key of the service.
            as_of: When values must not have outlived their time to live; now when absent.
            as_of_us: The same for each of the n rows, microseconds since the epoch, 0 for now;
                empty to take `as_of` for all.

        Raises:
            DomainError: As `OnlineReads.read`.
        """
        moments = as_of_us
        if as_of and not as_of_us:
            moments = [micros(as_of)] * len(next(iter(keys.values()), ()))
        return self._reads.read(Wanted(service, keys, moments))

    def checked(self, definitions: Definitions, view: FeatureView, table: Any) -> Any:
        """A pushed table as the source of the view has it; other columns may be missing."""
        source = definitions.data_sources[view.data_source]
        keys = definitions.join_keys_of_view(view)
        features = (each.name for each in view.features)
        return conform(
            table,
            TableRules(
                fields=source.fields,
                required=frozenset((*keys, *features, source.timestamp_field)),
                keys=definitions.keys_of_source(source.id) & {*keys, *table.column_names},
                timestamp_field=source.timestamp_field,
            ),
        )

    def push(self, definitions: Definitions, view: FeatureView, table: Any) -> int:
        """Writes the newest row of each entity unless a newer one is there.

        Returns:
            Number of rows written.
        """
        table = self._newest(definitions, view, table)
        rows = encode_rows(definitions, view, table, self._store.project)
        written = self._store.write(view.id, rows)
        self._memory.forget(row.key for row in rows)
        return written

    def load(
        self,
        records: Records,
        definitions: Definitions,
        views: Sequence[str],
        start: datetime | None,
        end: datetime | None,
    ) -> Materialization:
        """Loads the newest rows of an interval of history; with no bounds, all of it until now."""
        start, end = start or EPOCH, end or self._clock.now()
        if end <= start:
            raise InvalidArgument("OUT_OF_RANGE", "must be after start_time", field="end_time")
        wanted = tuple(dict.fromkeys(views)) or tuple(definitions.feature_views)
        for view in wanted:
            find_view(definitions, view, field="feature_views")
        written = sum(
            self._load_view(records, definitions, definitions.feature_views[view], start, end)
            for view in wanted
        )
        return Materialization(uuid7_str(), wanted, start, end, written, self._clock.now())

    def newest(self, view: str) -> datetime | None:
        """Time of the newest value of a view in the online store."""
        found = self._store.newest(view)
        return None if found is None else EPOCH + timedelta(microseconds=found)

    def _load_view(
        self,
        records: Records,
        definitions: Definitions,
        view: FeatureView,
        start: datetime,
        end: datetime,
    ) -> int:
        source = definitions.data_sources[view.data_source]
        needed = {*definitions.join_keys_of_view(view), source.timestamp_field}
        needed.update(each.name for each in view.features)
        fields = [each for each in source.fields if each.name in needed]
        history = self._histories.rows(records, source, fields, start, end)
        rows = self._newest(definitions, view, history)
        if not rows.num_rows:
            return 0
        written = self._loader.load(definitions, view.id, rows, start, end)
        self._memory.forget_all()
        return written

    def _newest(self, definitions: Definitions, view: FeatureView, table: Any) -> Any:
        source: DataSource = definitions.data_sources[view.data_source]
        keys = definitions.join_keys_of_view(view)
        return table.take(pa.array(latest_rows(table, keys=keys, time=source.timestamp_field)))
