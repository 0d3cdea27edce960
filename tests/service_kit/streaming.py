"""Events of numbers, and what becomes of them, for tests of streams."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from google.protobuf.wrappers_pb2 import Int64Value
from sqlalchemy import Engine, func, select

from service_kit.database import Session, reading
from service_kit.streams import Event, StreamConsumer
from tests.service_kit.sample_svc.storage import Shelf

MakeConsumer = Callable[..., StreamConsumer]


def numbered(*numbers: int) -> list[Event]:
    return [Event.of("s", f"k{n}", Int64Value(value=n)) for n in numbers]


def numbers_of(events: Sequence[Event]) -> list[int]:
    return [event.unpack(Int64Value).value for event in events]


def shelve(session: Session, events: Sequence[Event]) -> None:
    """An effect in the database."""
    session.add_all(Shelf(name=event.id) for event in events)


def shelves(engine: Engine) -> int:
    with reading(engine) as session:
        return session.scalar(select(func.count()).select_from(Shelf)) or 0


def wait_until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)
