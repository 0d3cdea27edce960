"""Records and workflows that a crash has parted are brought together again."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar

from service_kit.errors import NotFound
from training_svc.ports import Engine

DEAD = frozenset({"FAILED", "CANCELLED"})
"""States of a workflow that will not write its record any more."""
WORKFLOW_LOST = "the workflow ended outside its steps"


class Work(Protocol):
    """What a workflow of the same id carries out."""

    @property
    def id(self) -> str: ...


W = TypeVar("W", bound=Work)


def recover(
    engine: Engine,
    unfinished: Iterable[W],
    start: Callable[[W], None],
    give_up: Callable[[W], None],
) -> None:
    """Starts what was never started, and gives up what ended without a word."""
    for work in unfinished:
        try:
            state = engine.status(work.id)
        except NotFound:
            start(work)
            continue
        if state in DEAD:
            give_up(work)
