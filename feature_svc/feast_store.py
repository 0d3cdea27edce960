"""Feast: the definitions as its objects, and materialization through it.

The only module that imports Feast, whose import takes seconds: import it where it is needed.
"""

from __future__ import annotations

import contextlib
import io
import logging
import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pyarrow.parquet as pq
from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource, RepoConfig
from feast import ValueType as FeastType
from feast.infra.online_stores import redis as feast_redis
from feast.types import Bool, Float64, Int64, String

from feature_svc import domain
from feature_svc.domain import Definitions, ValueType
from feature_svc.domain.online import layout
from feature_svc.domain.online.rows import OnlineRow
from feature_svc.online_store import BATCH, put
from service_kit.errors import Internal, Unavailable

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_TYPES = {
    ValueType.DOUBLE: Float64,
    ValueType.INT64: Int64,
    ValueType.STRING: String,
    ValueType.BOOL: Bool,
}
_KEY_TYPES = {ValueType.STRING: FeastType.STRING, ValueType.INT64: FeastType.INT64}
_written: ContextVar[list[int]] = ContextVar("feature_svc_written")
_log = logging.getLogger(__name__)


class GuardedOnlineStoreConfig(feast_redis.RedisOnlineStoreConfig):  # type: ignore[misc]
    """Feast's Redis settings, for the store below."""

    type: str = f"{__name__}.GuardedOnlineStore"


class GuardedOnlineStore(feast_redis.RedisOnlineStore):  # type: ignore[misc]
    """Feast's Redis store, but a row never goes over a newer one, not even in a race.

    Feast reads all times first and writes afterwards, so that a push in between is lost, and it
    keeps the first of two rows with equal times where the later one counts here.
    """

    def online_write_batch(
        self,
        config: RepoConfig,
        table: FeatureView,
        data: list[tuple[Any, dict[str, Any], datetime, datetime | None]],
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Writes rows; see the base class."""
        rows = [_row(config, table.name, *each[:3]) for each in data]
        for start in range(0, len(rows), BATCH):
            batch = rows[start : start + BATCH]
            _written.get([]).append(put(self._get_client(config.online_store), table.name, batch))
            if progress is not None:
                progress(len(batch))


def _row(
    config: RepoConfig, view: str, key: Any, values: dict[str, Any], moment: datetime
) -> OnlineRow:
    pairs = ((layout.feature_field(view, name), value) for name, value in values.items())
    aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return OnlineRow(
        feast_redis._redis_key(config.project, key, 3),  # noqa: SLF001 - Feast has no public name
        (aware - _EPOCH) // _MICROSECOND,
        tuple(piece for field, value in pairs for piece in (field, value.SerializeToString())),
    )


class FeastStore:
    """A Feast feature store whose registry is made anew from our record.

    Args:
        folder: Where its registry and what it is to load lie.
        project: Feast's project; it ends the key of every row in Redis.
        redis_url: The online store.
    """

    def __init__(self, folder: Path, project: str, redis_url: str) -> None:
        self._folder = folder
        self._project = project
        self._redis_url = redis_url
        self._lock = threading.Lock()
        self._applied: Definitions | None = None
        self._store: FeatureStore | None = None

    def load(
        self,
        definitions: Definitions,
        view: str,
        rows: Any,
        start: datetime,
        end: datetime,
        wait: float,
    ) -> int:
        """Materializes rows, one an entity, of an interval; gives the number written.

        Raises:
            Unavailable: `MATERIALIZING` when another load does not end within `wait` seconds.
            Internal: `MATERIALIZATION_FAILED`.
        """
        if not self._lock.acquire(timeout=min(wait, threading.TIMEOUT_MAX)):
            raise Unavailable("MATERIALIZING", "another materialization is under way")
        try:
            counts: list[int] = []
            token = _written.set(counts)
            try:
                self._materialize(definitions, view, rows, start, end)
            finally:
                _written.reset(token)
            return sum(counts)
        finally:
            self._lock.release()

    def _materialize(
        self, definitions: Definitions, view: str, rows: Any, start: datetime, end: datetime
    ) -> None:
        pq.write_table(rows, self._batch(view))
        try:
            with _quiet():
                self._synced(definitions).materialize(start, end, feature_views=[view])
        except Exception as error:
            # A view whose load broke off stays in that state in the registry: make it anew.
            self._store = None
            _log.exception("materialization failed", extra={"feature_view": view})
            raise Internal(
                "MATERIALIZATION_FAILED", "the online store could not be loaded"
            ) from error

    def _synced(self, definitions: Definitions) -> FeatureStore:
        if self._store is None:
            (self._folder / "registry.db").unlink(missing_ok=True)
            self._store, self._applied = FeatureStore(config=self.config()), None
        if self._applied != definitions:
            self._store.apply(list(self._objects(definitions)))
            self._applied = definitions
        return self._store

    def config(self) -> RepoConfig:
        """The settings of the Feast repository."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return RepoConfig(
            project=self._project,
            provider="local",
            registry=str(self._folder / "registry.db"),
            online_store={
                "type": f"{__name__}.GuardedOnlineStore",
                "connection_string": _connection_string(self._redis_url),
            },
            offline_store={"type": "file"},
            entity_key_serialization_version=3,
        )

    def _batch(self, view: str) -> Path:
        folder = self._folder / "batches"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return folder / f"{view}.parquet"

    def _objects(self, definitions: Definitions) -> Iterator[Any]:
        entities = {
            each.id: Entity(
                name=each.id,
                join_keys=[each.join_key],
                value_type=_KEY_TYPES[each.type],
                description=each.description,
            )
            for each in definitions.entities.values()
        }
        views = {
            each.id: self._view(definitions, each, entities)
            for each in definitions.feature_views.values()
        }
        yield from entities.values()
        yield from views.values()
        for service in definitions.feature_services.values():
            yield FeatureService(
                name=service.id,
                features=[
                    views[view][[ref.feature for ref in service.features if ref.view == view]]
                    for view in service.views()
                ],
                description=service.description,
                owner=service.owner,
            )

    def _view(
        self, definitions: Definitions, view: domain.FeatureView, entities: dict[str, Entity]
    ) -> FeatureView:
        source = definitions.data_sources[view.data_source]
        keys = [(each.join_key, each.type) for each in definitions.entities_of(view)]
        features = [(each.name, each.type) for each in view.features]
        return FeatureView(
            name=view.id,
            entities=[entities[each] for each in view.entities],
            schema=[Field(name=name, dtype=_TYPES[kind]) for name, kind in [*keys, *features]],
            source=FileSource(
                name=f"{source.id}.{view.id}",
                path=str(self._batch(view.id)),
                timestamp_field=source.timestamp_field,
            ),
            ttl=view.ttl or timedelta(),
            description=view.description,
            owner=view.owner,
        )


def _connection_string(url: str) -> str:
    """What Feast wants instead of a URL: host:port,db=0,password=...; timeouts are ours."""
    parts = urlsplit(url)
    options = {"db": parts.path.strip("/") or "0", "socket_timeout": "5"}
    if parts.username:
        options["username"] = unquote(parts.username)
    if parts.password:
        options["password"] = unquote(parts.password)
    if parts.scheme == "rediss":
        options["ssl"] = "true"
    pairs = (f"{name}={value}" for name, value in options.items())
    return ",".join([f"{parts.hostname}:{parts.port or 6379}", *pairs])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    # Feast prints its progress; our stdout is for logs.
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield
