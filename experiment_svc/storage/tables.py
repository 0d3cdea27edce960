"""The tables. Rows of exposures hold no text of the caller's beyond the prediction id."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Double, Index, Integer, LargeBinary, SmallInteger, String, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from service_kit.database import BigKey, JsonColumn, UtcDateTime, make_metadata
from service_kit.idempotency import idempotency_table
from service_kit.streams import consumer_table


class Base(DeclarativeBase):
    metadata = make_metadata()


class ExperimentRow(Base):
    """An experiment; the number stands for it in the other tables."""

    __tablename__ = "experiments"
    number: Mapped[int] = mapped_column(BigKey, primary_key=True)
    id: Mapped[str] = mapped_column(String(63), unique=True)
    state: Mapped[str] = mapped_column(String(16), index=True)
    plan: Mapped[dict[str, Any]] = mapped_column(JsonColumn)
    created: Mapped[datetime] = mapped_column(UtcDateTime)
    concluded: Mapped[datetime | None] = mapped_column(UtcDateTime)
    conclusion: Mapped[str] = mapped_column(Text)
    max_delay_us: Mapped[int] = mapped_column(BigInteger)
    newest_us: Mapped[int] = mapped_column(BigInteger)


class AnalysisRow(Base):
    """A look at the data."""

    __tablename__ = "analyses"
    number: Mapped[int] = mapped_column(BigKey, primary_key=True)
    id: Mapped[str] = mapped_column(String(36))
    experiment: Mapped[int] = mapped_column(BigInteger)
    created: Mapped[datetime] = mapped_column(UtcDateTime)
    verdict: Mapped[dict[str, Any]] = mapped_column(JsonColumn)
    __table_args__ = (Index(None, "experiment", "number"),)


class ExposureRow(Base):
    """An exposure, with its outcome once that has come. Scores are little-endian doubles."""

    __tablename__ = "exposures"
    prediction_id: Mapped[str] = mapped_column(String(128), primary_key=True)
    experiment: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    assigned: Mapped[int] = mapped_column(SmallInteger)
    scores: Mapped[bytes] = mapped_column(LargeBinary)
    event_us: Mapped[int] = mapped_column(BigInteger)
    outcome: Mapped[float | None] = mapped_column(Double)
    __table_args__ = (Index(None, "experiment", "event_us"),)


class UnitRow(Base):
    """A unit of a randomized experiment, as a hash."""

    __tablename__ = "units"
    experiment: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    unit: Mapped[int] = mapped_column(BigInteger, primary_key=True)


class HeldRow(Base):
    """An outcome whose exposure has not come."""

    __tablename__ = "held_outcomes"
    number: Mapped[int] = mapped_column(BigKey, primary_key=True)
    prediction_id: Mapped[str] = mapped_column(String(128), unique=True)
    value: Mapped[float] = mapped_column(Double)
    event_us: Mapped[int] = mapped_column(BigInteger)
    received: Mapped[datetime] = mapped_column(UtcDateTime, index=True)


class MomentsRow(Base):
    """Sufficient statistics of one series on one day since the Unix epoch."""

    __tablename__ = "moments"
    experiment: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    day: Mapped[int] = mapped_column(Integer, primary_key=True)
    metric: Mapped[str] = mapped_column(String(64), primary_key=True)
    kind: Mapped[str] = mapped_column(String(16), primary_key=True)
    arm: Mapped[int] = mapped_column(SmallInteger, primary_key=True)
    n: Mapped[int] = mapped_column(BigInteger)
    mean: Mapped[float] = mapped_column(Double)
    m2: Mapped[float] = mapped_column(Double)


class TallyRow(Base):
    """Units of one arm on one day."""

    __tablename__ = "tallies"
    experiment: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    day: Mapped[int] = mapped_column(Integer, primary_key=True)
    arm: Mapped[int] = mapped_column(SmallInteger, primary_key=True)
    exposures: Mapped[int] = mapped_column(BigInteger)
    outcomes: Mapped[int] = mapped_column(BigInteger)


idempotency = idempotency_table(Base)
consumed = consumer_table(Base)
