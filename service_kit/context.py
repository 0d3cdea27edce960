"""Who is calling and how much time is left, inside a handler."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from service_kit.errors import Unauthenticated


@dataclass(frozen=True, slots=True)
class Caller:
    """On whose behalf a request runs.

    Attributes:
        principal: Resource name of a user, an API key or a service: ``services/registry``.
        scopes: What it may do: ``registry:read``, ``registry:*``, ``*:read``, ``*``.
    """

    principal: str
    scopes: frozenset[str] = frozenset()

    def may(self, scope: str) -> bool:
        """Whether one of the caller's scopes covers ``scope``."""
        return any(covers(granted, scope) for granted in self.scopes)


_caller: ContextVar[Caller | None] = ContextVar("modelyard_caller", default=None)
_deadline: ContextVar[float] = ContextVar("modelyard_deadline", default=math.inf)


def covers(granted: str, wanted: str) -> bool:
    """Whether a granted scope contains a wanted one.

    >>> covers("registry:*", "registry:write"), covers("*:read", "registry:write")
    (True, False)
    """
    if granted == "*":
        return True
    granted_area, _, granted_verb = granted.partition(":")
    area, _, verb = wanted.partition(":")
    return granted_area in ("*", area) and granted_verb in ("*", verb) and bool(granted_verb)


def current_caller() -> Caller:
    """The caller of the RPC being handled.

    Raises:
        Unauthenticated: ``NO_CALLER`` outside a handler.
    """
    caller = _caller.get()
    if caller is None:
        raise Unauthenticated("NO_CALLER", "no call is being handled here")
    return caller


def remaining() -> float:
    """Seconds until the deadline of the RPC being handled; ``inf`` without one, never negative."""
    return max(0.0, _deadline.get() - time.monotonic())


@contextmanager
def acting_as(caller: Caller) -> Iterator[None]:
    """Run a block on behalf of a caller."""
    token = _caller.set(caller)
    try:
        yield
    finally:
        _caller.reset(token)


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Run a block that should end within some seconds; an earlier deadline stays in force."""
    token = _deadline.set(min(_deadline.get(), time.monotonic() + seconds))
    try:
        yield
    finally:
        _deadline.reset(token)
