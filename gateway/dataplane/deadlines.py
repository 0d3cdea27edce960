"""Deadlines of many requests, watched by one timer: cheaper than a timer for each."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

#: Seconds between two looks.
SWEEP_S = 0.05


class Expiring(Protocol):
    """Something under way.

    Attributes:
        expires: Monotonic time at which its time is over.
    """

    expires: float


E = TypeVar("E", bound=Expiring)


class Deadlines(Generic[E]):
    """What is under way, until it is discarded or its time is over.

    Args:
        over: Told of what was not discarded in time; has to discard it.
    """

    def __init__(self, over: Callable[[E], None]) -> None:
        self._over = over
        self._under_way: set[E] = set()
        self._sweeping = False

    def __contains__(self, one: E) -> bool:
        return one in self._under_way

    def __len__(self) -> int:
        return len(self._under_way)

    def add(self, one: E) -> None:
        """Watch something; it must be equal to itself only."""
        self._under_way.add(one)
        if not self._sweeping:
            self._sweeping = True
            asyncio.get_running_loop().call_later(SWEEP_S, self._sweep)

    def discard(self, one: E) -> None:
        """Watch it no longer."""
        self._under_way.discard(one)

    def _sweep(self) -> None:
        now = time.monotonic()
        try:
            for each in [each for each in self._under_way if each.expires < now]:
                if each in self._under_way:  # the end of another may have been its end, too
                    self._over(each)
        finally:
            self._sweeping = bool(self._under_way)
            if self._sweeping:
                asyncio.get_running_loop().call_later(SWEEP_S, self._sweep)
