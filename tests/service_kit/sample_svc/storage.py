"""The tables of a service, as a service writes them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from service_kit.database import JsonColumn, UtcDateTime, make_metadata
from service_kit.idempotency import idempotency_table
from service_kit.outbox import outbox_table
from service_kit.streams import consumer_table


class Base(DeclarativeBase):
    metadata = make_metadata()


class Shelf(Base):
    __tablename__ = "shelves"
    name: Mapped[str] = mapped_column(String(63), primary_key=True)


class Book(Base):
    __tablename__ = "books"
    name: Mapped[str] = mapped_column(String(63), primary_key=True)
    shelf: Mapped[str] = mapped_column(ForeignKey("shelves.name"))
    tags: Mapped[dict[str, Any] | None] = mapped_column(JsonColumn)
    created: Mapped[datetime] = mapped_column(UtcDateTime)


IDEMPOTENCY = idempotency_table(Base)
OUTBOX = outbox_table(Base)
CONSUMED = consumer_table(Base)
