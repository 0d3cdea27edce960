from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from sqlalchemy import Engine, func, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError, StatementError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from service_kit.database import make_base, make_engine, reading, transaction
from service_kit.errors import Unavailable
from tests.service_kit.sample_svc.storage import Book, Shelf

NOON = datetime(2013, 6, 1, 14, 0, 0, 123456, tzinfo=timezone(timedelta(hours=2)))


def add_book(engine: Engine, name: str = "a", created: datetime = NOON, **tags: object) -> None:
    with transaction(engine) as session:
        if session.get(Shelf, "s") is None:
            session.add(Shelf(name="s"))
            session.flush()
        session.add(Book(name=name, shelf="s", tags=tags or None, created=created))


def test_time_comes_back_aware_in_utc_to_the_microsecond(engine: Engine) -> None:
    add_book(engine)
    with reading(engine) as session:
        created = session.scalars(select(Book.created)).one()
    assert created == NOON
    assert created.tzinfo is UTC


def test_times_compare_and_sort_by_moment(engine: Engine) -> None:
    add_book(engine, "late", NOON + timedelta(microseconds=1))
    add_book(engine, "early", NOON.astimezone(UTC) - timedelta(days=1))
    with reading(engine) as session:
        assert session.scalars(select(Book.name).order_by(Book.created)).all() == ["early", "late"]
        assert session.scalars(select(Book.name).where(Book.created > NOON)).all() == ["late"]


def test_naive_time_is_refused(engine: Engine) -> None:
    with pytest.raises(StatementError, match="time zone"):
        add_book(engine, created=NOON.replace(tzinfo=None))


def test_json_keeps_structure_and_null_is_null(engine: Engine) -> None:
    add_book(engine, "a", deep={"list": [1, 2.5, None, "é"]})
    add_book(engine, "b")
    with reading(engine) as session:
        assert session.get_one(Book, "a").tags == {"deep": {"list": [1, 2.5, None, "é"]}}
        assert session.scalars(select(Book.name).where(Book.tags.is_(None))).all() == ["b"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_json_refuses_what_json_lacks(engine: Engine, value: float) -> None:
    with pytest.raises((StatementError, ValueError)):
        add_book(engine, "a", value=value)


def test_error_rolls_back_and_hides_values(engine: Engine) -> None:
    add_book(engine, "kept")

    def add_wrongly() -> None:
        with transaction(engine) as session:
            session.add(Shelf(name="t"))
            session.flush()
            session.add(Book(name="secret-name", shelf="nowhere", tags=None, created=NOON))

    with pytest.raises(IntegrityError) as caught:
        add_wrongly()
    assert "[SQL parameters hidden" in str(caught.value)
    with reading(engine) as session:
        assert session.scalars(select(Shelf.name)).all() == ["s"]


def test_reading_cannot_write_and_leaves_the_connection_writable(engine: Engine) -> None:
    with pytest.raises(DBAPIError), reading(engine) as session:
        session.execute(text("INSERT INTO shelves (name) VALUES ('x')"))
    add_book(engine)


def test_reading_sees_one_state_while_others_write(engine: Engine) -> None:
    add_book(engine, "a")
    count = select(func.count()).select_from(Book)
    with reading(engine) as session:
        assert session.scalar(count) == 1
        add_book(engine, "b")
        assert session.scalar(count) == 1
    with reading(engine) as session:
        assert session.scalar(count) == 2


def test_concurrent_read_modify_write_loses_nothing_on_sqlite(tmp_path: Path) -> None:
    engine = make_engine(f"sqlite:///{tmp_path}/sub/counter.db")
    with transaction(engine) as session:
        session.execute(text("CREATE TABLE counter (value INTEGER)"))
        session.execute(text("INSERT INTO counter VALUES (0)"))

    def count() -> None:
        for _ in range(25):
            with transaction(engine) as session:
                value = session.scalar(text("SELECT value FROM counter"))
                time.sleep(0.0005)
                session.execute(text("UPDATE counter SET value = :v"), {"v": value + 1})

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with reading(engine) as session:
        assert session.scalar(text("SELECT value FROM counter")) == 100
        assert session.scalar(text("PRAGMA journal_mode")) == "wal"
        assert session.scalar(text("PRAGMA synchronous")) == 2
    engine.dispose()


def test_a_locked_database_is_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service_kit.database.BUSY_TIMEOUT_MS", 20)
    engine = make_engine(f"sqlite:///{tmp_path}/locked.db")
    with transaction(engine) as first:
        first.execute(text("CREATE TABLE t (a INTEGER)"))
        with pytest.raises(Unavailable) as caught, transaction(engine) as second:
            second.execute(text("SELECT 1"))
    assert caught.value.reason == "DATABASE_UNAVAILABLE"
    engine.dispose()


def test_a_database_that_is_down_is_unavailable() -> None:
    engine = make_engine("postgresql+psycopg://nobody@127.0.0.1:9/none")
    with pytest.raises(Unavailable), transaction(engine) as session:
        session.execute(text("SELECT 1"))


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "mysql://h/d"])
def test_other_databases_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"SQLite"):
        make_engine(url)


def test_bases_are_separate_and_constraints_are_named() -> None:
    base: type[DeclarativeBase] = make_base()
    assert base.metadata is not make_base().metadata

    class Thing(base):  # type: ignore[misc, valid-type]
        __tablename__ = "things"
        id: Mapped[int] = mapped_column(primary_key=True)

    assert Thing.__table__.primary_key.name == "pk_things"
