"""Those who listen hear of what was committed, and of nothing else."""

from __future__ import annotations

import gc

from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from service_kit.bell import Bell
from service_kit.database import transaction


class Listener:
    """Counts."""

    def __init__(self) -> None:
        self.heard = 0

    def hear(self) -> None:
        self.heard += 1


def test_it_rings_once_for_each_commit_and_never_before(engine: Engine) -> None:
    bell, listener = Bell(), Listener()
    bell.tell(listener.hear)
    for times in (1, 2):
        with transaction(engine) as session:
            session.execute(text("select 1"))
            bell.ring_after(session)
            assert listener.heard == times - 1
        assert listener.heard == times


def test_it_is_silent_about_what_was_rolled_back(engine: Engine) -> None:
    bell, listener = Bell(), Listener()
    bell.tell(listener.hear)
    with Session(engine) as session:
        session.execute(text("select 1"))
        bell.ring_after(session)
        session.rollback()
    assert listener.heard == 0


def test_who_is_gone_is_not_told() -> None:
    bell, stays, goes = Bell(), Listener(), Listener()
    bell.tell(goes.hear)
    bell.tell(stays.hear)
    del goes
    gc.collect()
    bell.ring()
    assert stays.heard == 1
    assert len(bell._listeners) == 1
