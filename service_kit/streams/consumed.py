"""Which events have had their effect: their ids, kept in the database that the effect is in."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Column, MetaData, String, Table, delete, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DataError, DBAPIError
from sqlalchemy.orm import DeclarativeBase, Session

from service_kit.database import UtcDateTime
from service_kit.errors import Unavailable

#: Ids that one transaction forgets at most.
FORGET_ROWS = 10_000


def consumer_table(base: type[DeclarativeBase] | MetaData, name: str = "consumed_events") -> Table:
    """The table of event ids whose effect has been committed."""
    return Table(
        name,
        base if isinstance(base, MetaData) else base.metadata,
        Column("consumer", String(160), primary_key=True),
        Column("event_id", String(36), primary_key=True),
        Column("consumed", UtcDateTime, nullable=False, index=True),
    )


def remember(session: Session, table: Table, consumer: str, ids: Iterable[str]) -> set[str]:
    """Insert ids and give those that were not there; raises Unavailable."""
    dialect = session.get_bind().dialect.name
    insert = postgresql.insert if dialect == "postgresql" else sqlite.insert
    statement = insert(table).on_conflict_do_nothing()
    now = datetime.now(UTC)
    # Sorted, so that two consumers with the same ids wait for each other and never both.
    rows = [{"consumer": consumer, "event_id": each, "consumed": now} for each in sorted(ids)]
    try:
        returned = session.execute(statement.returning(table.c.event_id), rows)
    except DBAPIError as error:
        if isinstance(error, DataError):
            raise
        # No event is to blame when its id cannot be kept; setting all aside would lose them.
        raise Unavailable("DATABASE_UNAVAILABLE", "event ids cannot be kept") from error
    return set(returned.scalars())


def forget(session: Session, table: Table, consumer: str, before: datetime) -> bool:
    """Forget the ids of some events that were taken before; false while there may be more."""
    old = (table.c.consumer == consumer) & (table.c.consumed < before)
    some = select(table.c.event_id).where(old).limit(FORGET_ROWS).scalar_subquery()
    gone: Any = session.execute(delete(table).where(old, table.c.event_id.in_(some)))
    return int(gone.rowcount) < FORGET_ROWS
