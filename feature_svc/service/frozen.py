"""Snapshots and training sets: tables that never change, named by the hash of their content."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from feature_svc.domain import (
    DataSource,
    Definitions,
    FeatureService,
    FeatureView,
    Field,
    Snapshot,
    TrainingSet,
    ValueType,
    canonical_order,
    content_hash,
    evenly_spread,
    point_in_time_rows,
    schema_of,
    service_hash,
)
from feature_svc.domain.joining import taken
from feature_svc.service.histories import Histories, instant
from feature_svc.service.ports import HistoryStore, Records
from service_kit.clock import Clock
from service_kit.errors import InvalidArgument

_MICROSECOND = timedelta(microseconds=1)


class FrozenTables:
    """Makes and reads tables that never change.

    What takes long, `freeze_…`, only writes files under hashes; what it gives is recorded in a
    transaction of its own.
    """

    def __init__(self, clock: Clock, histories: Histories, store: HistoryStore) -> None:
        self._clock = clock
        self._histories = histories
        self._store = store

    def freeze_snapshot(
        self,
        records: Records,
        source: DataSource,
        start: datetime | None,
        end: datetime,
        known_by: str,
    ) -> Snapshot:
        """Freezes rows with start <= timestamp < end that were known by the end.

        Rows whose `known_by` is null or after `end` are left out: their label was not there yet.
        """
        if start is not None and end <= start:
            raise InvalidArgument("OUT_OF_RANGE", "must be after start_time", field="end_time")
        if known_by and source.type_of(known_by) is not ValueType.TIMESTAMP:
            raise InvalidArgument(
                "UNKNOWN_COLUMN", "must name a timestamp column", field="known_by_field"
            )
        table = self._histories.rows(records, source, source.fields, start, end)
        if known_by:
            known = pc.less_equal(table.column(known_by), instant(end))
            table = table.filter(pc.fill_null(known, False))
        table = canonical_order(table, source.timestamp_field)
        sha256 = content_hash(table, about=source.id)
        self._store.freeze(sha256, table)
        return Snapshot(sha256, source.id, start, end, table.num_rows, self._clock.now())

    def freeze_training_set(
        self,
        records: Records,
        definitions: Definitions,
        snapshot: Snapshot,
        service: FeatureService,
    ) -> TrainingSet:
        """Joins a snapshot with a service at the time of each of its rows."""
        source = definitions.data_sources[snapshot.data_source]
        labels = self._store.frozen(snapshot.sha256)
        fields = _fields(labels.column_names, source)
        _check_joinable(definitions, service, fields)
        columns: dict[str, Any] = {}
        for view_id in service.views():
            view = definitions.feature_views[view_id]
            wanted = [ref.feature for ref in service.features if ref.view == view_id]
            columns |= self._joined(records, definitions, view, wanted, labels, source)
        fields = [*fields, *_features(definitions, service)]
        joined = pa.table(
            [*labels.columns, *(columns[ref.feature] for ref in service.features)],
            schema=schema_of(fields),
        )
        joined = canonical_order(joined, source.timestamp_field)
        sha256 = content_hash(joined)
        self._store.freeze(sha256, joined)
        return TrainingSet(
            sha256,
            snapshot.sha256,
            service.id,
            service_hash(definitions, service),
            tuple(fields),
            joined.num_rows,
            self._clock.now(),
        )

    def read(self, sha256: str, max_rows: int = 0) -> Iterator[Any]:
        """The rows of a frozen table in parts; evenly spread ones when only some are wanted."""
        if max_rows < 0:
            raise InvalidArgument("OUT_OF_RANGE", "must not be negative", field="max_rows")
        if max_rows == 0:
            yield from self._store.frozen_batches(sha256)
            return
        table = self._store.frozen(sha256)
        yield table.take(pa.array(evenly_spread(table.num_rows, max_rows)))

    def _joined(
        self,
        records: Records,
        definitions: Definitions,
        view: FeatureView,
        wanted: Sequence[str],
        labels: Any,
        source: DataSource,
    ) -> dict[str, Any]:
        keys = definitions.join_keys_of_view(view)
        history_source = definitions.data_sources[view.data_source]
        needed = {*keys, history_source.timestamp_field, *wanted}
        fields = [each for each in history_source.fields if each.name in needed]
        newest = pc.max(labels.column(source.timestamp_field)).as_py()
        end = self._clock.now() if newest is None else newest + _MICROSECOND
        history = self._histories.rows(records, history_source, fields, None, end)
        rows = point_in_time_rows(
            labels,
            history,
            keys=keys,
            label_time=source.timestamp_field,
            history_time=history_source.timestamp_field,
            ttl=view.ttl,
        )
        return {name: taken(history.column(name), np.asarray(rows)) for name in wanted}


def _fields(names: Sequence[str], source: DataSource) -> list[Field]:
    return [each for name in names for each in source.fields if each.name == name]


def _features(definitions: Definitions, service: FeatureService) -> Iterator[Field]:
    for ref in service.features:
        view = definitions.feature_views[ref.view]
        yield next(each for each in view.features if each.name == ref.feature)


def _check_joinable(
    definitions: Definitions, service: FeatureService, fields: Sequence[Field]
) -> None:
    types = {each.name: each.type for each in fields}
    for key, kind in definitions.key_types(service).items():
        if types.get(key) is not kind:
            raise InvalidArgument(
                "MISSING_ENTITY_KEY",
                f"the snapshot has no column {key} of type {kind}",
                field="feature_service",
            )
    for ref in service.features:
        if ref.feature in types:
            raise InvalidArgument(
                "DUPLICATE_NAME",
                f"the snapshot has a column {ref.feature} already",
                field="feature_service",
            )
