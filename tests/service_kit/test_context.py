"""Callers, scopes and the time that is left; the clock."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import pytest

from service_kit import context
from service_kit.clock import Clock, FixedClock, SystemClock
from service_kit.context import Caller, acting_as, covers, current_caller, remaining
from service_kit.errors import Unauthenticated


@pytest.mark.parametrize(
    ("granted", "wanted", "covered"),
    [
        ("*", "registry:write", True),
        ("registry:*", "registry:write", True),
        ("*:read", "registry:read", True),
        ("registry:read", "registry:read", True),
        ("*:*", "registry:read", True),
        ("registry:read", "registry:write", False),
        ("registry:*", "features:read", False),
        ("*:read", "registry:write", False),
        ("registry", "registry:read", False),
        ("registry:", "registry:read", False),
        ("", "registry:read", False),
        ("reg:*", "registry:read", False),
    ],
)
def test_scopes(granted: str, wanted: str, covered: bool) -> None:
    assert covers(granted, wanted) is covered


def test_there_is_no_caller_outside_a_call() -> None:
    with pytest.raises(Unauthenticated):
        current_caller()
    with acting_as(Caller("users/ada")):
        assert current_caller().principal == "users/ada"
    with pytest.raises(Unauthenticated):
        current_caller()


def test_the_earlier_deadline_wins() -> None:
    assert remaining() == math.inf
    with context.deadline(1.0), context.deadline(60.0):
        assert 0.5 < remaining() <= 1.0
    with context.deadline(-1.0):
        assert remaining() == 0.0


def test_a_fixed_clock_moves_when_told() -> None:
    clock = FixedClock(datetime(2024, 1, 31, tzinfo=UTC))
    clock.advance(timedelta(days=1))
    assert clock.now() == datetime(2024, 2, 1, tzinfo=UTC)
    with pytest.raises(ValueError, match="aware"):
        FixedClock(datetime(2024, 1, 1))  # noqa: DTZ001


def test_the_systems_clock_is_in_utc() -> None:
    clock: Clock = SystemClock()
    assert clock.now().tzinfo is UTC
