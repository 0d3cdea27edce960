"""Says within a process that the record has changed, so that nobody need look again and again."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import Any

from sqlalchemy import event
from sqlalchemy.orm import Session


class Bell:
    """Rings once a transaction has committed; for whoever looks for what it wrote.

    Who listens looks by itself too, seldom: another process may have written, or this one may
    have ended between the commit and the ring.
    """

    def __init__(self) -> None:
        self._listeners: list[weakref.WeakMethod[Callable[[], Any]]] = []
        self._lock = threading.Lock()

    def tell(self, listener: Callable[[], Any]) -> None:
        """Call a bound method at each ring, for as long as its object lives."""
        with self._lock:
            self._listeners.append(weakref.WeakMethod(listener))

    def ring(self) -> None:
        """Call all who listen."""
        with self._lock:
            self._listeners = [each for each in self._listeners if each() is not None]
            listeners = [each() for each in self._listeners]
        for listener in listeners:
            if listener is not None:
                listener()

    def ring_after(self, session: Session) -> None:
        """Ring when the transaction of `session` commits."""
        event.listen(session, "after_commit", self._committed, once=True)

    def _committed(self, _: Session) -> None:
        self.ring()
