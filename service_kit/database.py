"""SQL engines, transactions and column types that behave alike on SQLite and PostgreSQL."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import (
    JSON,
    URL,
    BigInteger,
    Connection,
    DateTime,
    Dialect,
    Engine,
    Integer,
    MetaData,
    create_engine,
    event,
)
from sqlalchemy import make_url as parse_url
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import DeclarativeBase, Session
from sqlalchemy.pool import NullPool
from sqlalchemy.types import TypeDecorator

from service_kit.errors import Unavailable

__all__ = [
    "BigKey",
    "JsonColumn",
    "Session",
    "UtcDateTime",
    "make_base",
    "make_engine",
    "make_metadata",
    "migrate",
    "migration_engine",
    "reading",
    "transaction",
]

NAMING_CONVENTION = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}

BUSY_TIMEOUT_MS = 5_000
MIGRATION_TIMEOUT_MS = 60_000
STATEMENT_TIMEOUT_MS = 30_000
CONNECT_TIMEOUT_S = 5
_READ_ONLY = "modelyard_read_only"


class UtcDateTime(TypeDecorator[datetime]):
    """A moment: an aware datetime goes in, an aware UTC datetime comes out, with microseconds.

    A naive datetime is refused with ValueError; SQLite keeps UTC text that sorts by time.
    """

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a timestamp needs a time zone")
        moment = value.astimezone(UTC)
        return moment.replace(tzinfo=None) if dialect.name == "sqlite" else moment

    def process_result_value(self, value: datetime | None, _: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class JsonColumn(TypeDecorator[Any]):
    """A JSON document (JSONB on PostgreSQL); None is SQL NULL, NaN and infinity are refused.

    The order of an object's keys is not kept on PostgreSQL.
    """

    impl = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
    cache_ok = True


BigKey = BigInteger().with_variant(Integer(), "sqlite")
"""A 64-bit integer that counts up by itself when it is a primary key, on both databases."""


def make_metadata() -> MetaData:
    """A MetaData whose constraints get names, so that a later migration can drop them."""
    return MetaData(naming_convention=NAMING_CONVENTION)


def make_base() -> type[DeclarativeBase]:
    """A fresh declarative base; for typed models write `class Base(DeclarativeBase)` instead.

    The body of such a class is the one line `metadata = make_metadata()`.
    """

    class Base(DeclarativeBase):
        metadata = make_metadata()

    return Base


def make_engine(url: str, *, pool_size: int = 10) -> Engine:
    """Open a pool for `sqlite:///file` or `postgresql+psycopg://…`; connects on first use only.

    SQLite runs in WAL mode with synchronous=FULL: a commit that returned survives a power cut.
    Raises ValueError for another database or for SQLite in memory, which threads cannot share.
    """
    return _create(
        parse_url(url), pool_size=pool_size, max_overflow=pool_size, pool_timeout=CONNECT_TIMEOUT_S
    )


def migration_engine(engine: Engine) -> Engine:
    """An engine on the same database whose connections are made to change the schema."""
    return _create(engine.url, migrating=True, poolclass=NullPool)


def _create(url: URL, *, migrating: bool = False, **options: Any) -> Engine:
    backend = url.get_backend_name()
    if backend == "sqlite":
        if url.database in (None, "", ":memory:"):
            raise ValueError("SQLite in memory is not supported; name a file")
        Path(str(url.database)).parent.mkdir(parents=True, exist_ok=True)
        options["connect_args"] = {"timeout": BUSY_TIMEOUT_MS / 1000, "check_same_thread": False}
    elif backend == "postgresql":
        options["connect_args"] = {"connect_timeout": CONNECT_TIMEOUT_S}
        options["pool_pre_ping"] = True
    else:
        raise ValueError("the database must be SQLite or PostgreSQL")
    engine = create_engine(url, json_serializer=_to_json, hide_parameters=True, **options)
    if backend == "sqlite":
        _configure_sqlite(engine, migrating)
    else:
        _configure_postgres(engine, migrating)
    return engine


def _to_json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _configure_sqlite(engine: Engine, migrating: bool) -> None:
    # Python's driver opens transactions late and by its own rules, so that a read followed by
    # a write can fail with "locked" at once; hence no driver transactions, and BEGIN is ours.
    @event.listens_for(engine, "connect")
    def connect(connection: sqlite3.Connection, _: object) -> None:
        connection.isolation_level = None
        timeout = MIGRATION_TIMEOUT_MS if migrating else BUSY_TIMEOUT_MS
        connection.execute(f"PRAGMA busy_timeout={timeout}")
        _enter_wal(connection)
        connection.execute("PRAGMA synchronous=FULL")
        # A migration rebuilds tables; it checks the foreign keys itself at its end.
        connection.execute(f"PRAGMA foreign_keys={'OFF' if migrating else 'ON'}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        read_only = bool(connection.get_execution_options().get(_READ_ONLY))
        if connection.info.get(_READ_ONLY, False) != read_only:
            connection.exec_driver_sql(f"PRAGMA query_only={int(read_only)}")
            connection.info[_READ_ONLY] = read_only
        connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")


def _enter_wal(connection: sqlite3.Connection) -> None:
    # SQLite does not wait for the lock that this one switch needs when two start at once.
    deadline = time.monotonic() + BUSY_TIMEOUT_MS / 1000
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _configure_postgres(engine: Engine, migrating: bool) -> None:
    timeout = 0 if migrating else STATEMENT_TIMEOUT_MS

    @event.listens_for(engine, "connect")
    def connect(connection: Any, _: object) -> None:
        with connection.cursor() as cursor:
            cursor.execute(f"SET statement_timeout = {timeout}")
            cursor.execute("SET timezone = 'UTC'")
        connection.commit()


@contextmanager
def transaction(engine: Engine) -> Iterator[Session]:
    """A session whose changes are committed at the end, or rolled back when the block raises.

    On SQLite it is the only writer from its first statement on. Raises Unavailable
    (`DATABASE_UNAVAILABLE`) when the database does not answer or stays locked.
    """
    with _translated(), Session(engine, expire_on_commit=False) as session, session.begin():
        yield session


@contextmanager
def reading(engine: Engine) -> Iterator[Session]:
    """A session that sees one consistent state and never waits for writers; writing fails."""
    options: dict[str, Any] = {_READ_ONLY: True}
    if engine.dialect.name == "postgresql":
        options |= {"postgresql_readonly": True, "isolation_level": "REPEATABLE READ"}
    bound = engine.execution_options(**options)
    with _translated(), Session(bound, expire_on_commit=False) as session, session.begin():
        yield session


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except PoolTimeout as error:
        raise Unavailable("DATABASE_UNAVAILABLE", "no database connection is free") from error
    except OperationalError as error:
        if isinstance(error.orig, sqlite3.Error) and not _is_busy(error.orig):
            raise
        raise Unavailable("DATABASE_UNAVAILABLE", "the database did not answer") from error


def _is_busy(error: BaseException) -> bool:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def migrate(engine: Engine, package: str) -> None:
    """Bring the database to the newest revision of `package`'s migrations folder.

    Safe when several processes start at once; all pending revisions are applied or none.
    Raises FailedPrecondition (`DATABASE_NEWER`) when newer code has already migrated it.
    """
    # Imported here because Alembic and its checks are needed at start only.
    from service_kit.migrations import upgrade

    upgrade(engine, package)
