"""The record of the service: tables and what reads and writes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from monitor_svc.storage.alerts import ACTIONS, AlertRows
from monitor_svc.storage.labels import LabelRows
from monitor_svc.storage.monitors import FOLLOWINGS, MonitorRows
from service_kit.database import reading, transaction

__all__ = ["ACTIONS", "FOLLOWINGS", "SqlStore", "reads", "transactions"]


class SqlStore(MonitorRows, LabelRows, AlertRows):
    """Implements `Store` in one session."""

    def __init__(self, session: Session) -> None:
        self._session = session


def transactions(engine: Engine) -> Callable[[], AbstractContextManager[SqlStore]]:
    """Opens transactions that are committed at their end."""

    @contextmanager
    def begin() -> Iterator[SqlStore]:
        with transaction(engine) as session:
            yield SqlStore(session)

    return begin


def reads(engine: Engine) -> Callable[[], AbstractContextManager[SqlStore]]:
    """Opens transactions that only read and never wait."""

    @contextmanager
    def begin() -> Iterator[SqlStore]:
        with reading(engine) as session:
            yield SqlStore(session)

    return begin
