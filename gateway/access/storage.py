"""The table of API keys."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Engine, LargeBinary, String, func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from gateway.access.keys import ApiKey
from service_kit.database import JsonColumn, UtcDateTime, make_metadata, reading, transaction
from service_kit.errors import NotFound


class Base(DeclarativeBase):
    """Tables of the gateway."""

    metadata = make_metadata()


class ApiKeyRow(Base):
    """An API key; the key itself is not here."""

    __tablename__ = "api_keys"

    prefix: Mapped[str] = mapped_column(String(8), primary_key=True)
    digest: Mapped[bytes] = mapped_column(LargeBinary(32))
    principal: Mapped[str] = mapped_column(String(160))
    scopes: Mapped[list[str]] = mapped_column(JsonColumn)
    created: Mapped[datetime] = mapped_column(UtcDateTime)
    revoked: Mapped[datetime | None] = mapped_column(UtcDateTime)


class ApiKeyTable:
    """Reads and writes API keys."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def add(self, key: ApiKey) -> None:
        """Record a new key."""
        with transaction(self._engine) as session:
            session.add(
                ApiKeyRow(
                    prefix=key.prefix,
                    digest=key.digest,
                    principal=key.principal,
                    scopes=sorted(key.scopes),
                    created=key.created,
                    revoked=None,
                )
            )

    def list(self) -> Sequence[ApiKey]:
        """All keys, oldest first."""
        with reading(self._engine) as session:
            rows = session.scalars(select(ApiKeyRow).order_by(ApiKeyRow.created, ApiKeyRow.prefix))
            return [_key(row) for row in rows]

    def revoke(self, prefix: str, when: datetime) -> None:
        """Make a key useless; revoking it again changes nothing.

        Raises:
            NotFound: `KEY_NOT_FOUND`.
        """
        with transaction(self._engine) as session:
            row = session.get(ApiKeyRow, prefix)
            if row is None:
                raise NotFound("KEY_NOT_FOUND", "there is no such key", field="prefix")
            row.revoked = row.revoked or when

    def version(self) -> tuple[int, datetime | None, datetime | None]:
        """Something that changes whenever the table does, for cheap polling."""
        query = select(
            func.count(ApiKeyRow.prefix), func.max(ApiKeyRow.created), func.max(ApiKeyRow.revoked)
        )
        with reading(self._engine) as session:
            count, created, revoked = session.execute(query).one()
            return count, created, revoked


def _key(row: ApiKeyRow) -> ApiKey:
    return ApiKey(
        prefix=row.prefix,
        digest=bytes(row.digest),
        principal=row.principal,
        scopes=frozenset(row.scopes),
        created=row.created,
        revoked=row.revoked,
    )
