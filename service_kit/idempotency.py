"""Answer a repeated request with its first answer (AIP-155)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol, TypeVar, cast

from sqlalchemy import (
    Column,
    CursorResult,
    LargeBinary,
    MetaData,
    String,
    Table,
    delete,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import DeclarativeBase, Session

from service_kit.database import UtcDateTime
from service_kit.errors import InvalidArgument

MAX_REQUEST_ID = 128


class Serializable(Protocol):
    """What an answer must be able to do; every protobuf message can."""

    def SerializeToString(self) -> bytes: ...  # noqa: N802


M = TypeVar("M", bound=Serializable)


def idempotency_table(base: type[DeclarativeBase] | MetaData, name: str = "idempotency") -> Table:
    """The table of first answers, keyed by method and request id."""
    return Table(
        name,
        base if isinstance(base, MetaData) else base.metadata,
        Column("method", String(200), primary_key=True),
        Column("request_id", String(MAX_REQUEST_ID), primary_key=True),
        Column("fingerprint", LargeBinary, nullable=False),
        Column("answer", LargeBinary, nullable=True),
        Column("created", UtcDateTime, nullable=False, index=True),
    )


def once(
    session: Session,
    table: Table,
    *,
    method: str,
    request_id: str,
    fingerprint: bytes,
    build: Callable[[], M],
    parse: Callable[[bytes], M],
) -> M:
    """Run `build` the first time that `request_id` is seen, and give its answer ever after.

    Args:
        session: The transaction in which `build` writes; key and effect commit together.
        method: Full name of the method; the same id on another method is another request.
        request_id: At most 128 characters; empty means that the caller asks for no such care.
        fingerprint: Bytes of the request (`SerializeToString(deterministic=True)`).
        build: Makes the effect and the answer.
        parse: Reads a kept answer (`Model.FromString`).

    A concurrent twin waits for the first to commit. Raises InvalidArgument
    (`REQUEST_ID_REUSED`, `REQUEST_ID_TOO_LONG`).
    """
    if not request_id:
        return build()
    if len(request_id) > MAX_REQUEST_ID:
        raise InvalidArgument("REQUEST_ID_TOO_LONG", "request_id is too long", field="request_id")
    digest = hashlib.sha256(fingerprint).digest()
    mine = (table.c.method == method) & (table.c.request_id == request_id)
    if not _claim(session, table, method, request_id, digest):
        kept = session.execute(select(table.c.fingerprint, table.c.answer).where(mine)).one()
        if bytes(kept.fingerprint) != digest:
            raise InvalidArgument(
                "REQUEST_ID_REUSED",
                "request_id was used before with another request",
                field="request_id",
            )
        return parse(bytes(kept.answer))
    answer = build()
    session.execute(update(table).where(mine).values(answer=answer.SerializeToString()))
    return answer


def _claim(session: Session, table: Table, method: str, request_id: str, digest: bytes) -> bool:
    """Insert the key; False when it is there already, after waiting for who is inserting it."""
    dialect = session.get_bind().dialect.name
    insert = postgresql.insert if dialect == "postgresql" else sqlite.insert
    statement = (
        insert(table)
        .values(
            method=method,
            request_id=request_id,
            fingerprint=digest,
            created=datetime.now(UTC),
        )
        .on_conflict_do_nothing()
        .returning(table.c.method)
    )
    return session.execute(statement).first() is not None


def forget_answers(session: Session, table: Table, before: datetime) -> int:
    """Delete the answers created before that moment; gives their number."""
    result = session.execute(delete(table).where(table.c.created < before))
    return cast("CursorResult[tuple[()]]", result).rowcount
