"""Work beside the calls: done again, whatever goes wrong, until it is stopped."""

from __future__ import annotations

import logging
import threading
import time

import pytest

from service_kit.errors import Unavailable
from service_kit.periodic import Periodic


class Counting(Periodic):
    """Counts how often it worked, and does as told each time."""

    def __init__(
        self,
        every: float,
        *outcomes: bool | Exception,
        at_once: bool = True,
        calm: float | None = None,
    ) -> None:
        super().__init__("counting", every, at_once=at_once, calm=calm)
        self.outcomes = list(outcomes)
        self.done = 0
        self.through = threading.Event()

    def work(self) -> bool:
        self.done += 1
        outcome = self.outcomes.pop(0) if self.outcomes else False
        if not self.outcomes:
            self.through.set()
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


def test_it_goes_on_without_a_pause_while_there_is_more() -> None:
    work = Counting(60.0, True, True, False)
    work.start()
    assert work.through.wait(5)
    work.stop()
    assert work.done == 3


def test_it_may_begin_with_a_pause() -> None:
    work = Counting(60.0, at_once=False)
    work.start()
    assert not work.through.wait(0.1)
    began = time.monotonic()
    work.stop()
    assert work.stopping
    assert time.monotonic() - began < 1.0
    assert work.done == 0


def test_what_goes_wrong_does_not_end_it(caplog: pytest.LogCaptureFixture) -> None:
    work = Counting(0.01, Unavailable("DATABASE_AWAY", "away"), ValueError("odd"), True, False)
    with caplog.at_level(logging.WARNING):
        work.start()
        assert work.through.wait(5)
        work.stop()
    # What is away is said by readiness, again and again; here it would be said twice a second.
    assert [record.getMessage() for record in caplog.records] == ["counting went wrong"]


def test_it_can_be_started_again() -> None:
    work = Counting(60.0, False)
    work.start()
    assert work.through.wait(5)
    work.stop()
    work.through.clear()
    work.start()
    assert work.through.wait(5)
    work.stop()
    assert work.done == 2


def test_news_end_a_pause() -> None:
    work = Counting(60.0, False)
    work.start()
    assert work.through.wait(5)
    work.through.clear()
    work.stir()
    assert work.through.wait(5)
    work.stop()
    assert work.done == 2


def test_it_pauses_for_longer_once_nothing_has_happened_for_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("service_kit.periodic.LASTING_S", 0.2)
    work = Counting(0.01, calm=60.0)
    work.start()
    time.sleep(0.5)
    calm = work.done
    assert calm > 1
    time.sleep(0.2)
    assert work.done == calm
    work.stir()
    time.sleep(0.15)
    work.stop()
    assert work.done > calm + 1
