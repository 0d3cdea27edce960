"""Statements that SQLite and PostgreSQL spell differently."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Column, ColumnElement, Table, any_, func, literal, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Session
from sqlalchemy.types import Text


def upsert(session: Session, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows or replace those with the same primary key."""
    if not rows:
        return
    statement: Any = _insert(session, table)
    keys = [column.name for column in table.primary_key]
    rest = {c.name: statement.excluded[c.name] for c in table.c if c.name not in keys}
    session.execute(
        statement.on_conflict_do_update(index_elements=keys, set_=rest), [dict(r) for r in rows]
    )


def insert_new(session: Session, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert the rows whose primary key is not there."""
    if rows:
        statement: Any = _insert(session, table)
        session.execute(statement.on_conflict_do_nothing(), [dict(row) for row in rows])


def is_one_of(session: Session, column: Column[str], values: Sequence[str]) -> ColumnElement[bool]:
    """`column IN values` with one bound parameter, however many values there are."""
    if _dialect(session) == "postgresql":
        return column == any_(literal(list(values), ARRAY(Text)))
    each = func.json_each(json.dumps(list(values))).table_valued("value")
    return column.in_(select(each.c.value))


def _insert(session: Session, table: Table) -> Any:
    module: Any = postgresql if _dialect(session) == "postgresql" else sqlite
    return module.insert(table)


def _dialect(session: Session) -> str:
    return session.get_bind().dialect.name
