"""Use cases with stand-ins for the world."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime

import pytest

from feature_svc.domain import Definitions, HistoryFile
from feature_svc.service import CurrentDefinitions
from feature_svc.service.histories import SMALL_ROWS, _longest_run
from service_kit.errors import Unavailable
from tests.feature_svc.examples import definitions

WHEN = datetime(2013, 1, 1, tzinfo=UTC)


class Record:
    """A record that counts how often it is asked."""

    def __init__(self) -> None:
        self.generation = 1
        self.away = False
        self.asked = 0

    def load(self, known: int | None) -> tuple[int, Definitions | None]:
        self.asked += 1
        if self.away:
            raise Unavailable("DATABASE_UNAVAILABLE", "away")
        return self.generation, None if known == self.generation else definitions()


def test_the_record_is_asked_once_a_second_at_most() -> None:
    record = Record()
    current = CurrentDefinitions(record.load)
    for _ in range(100):
        assert current.get() == (1, definitions())
    assert record.asked == 1


def test_a_change_is_seen_at_once() -> None:
    record = Record()
    current = CurrentDefinitions(record.load)
    current.get()
    record.generation = 2
    current.expire()
    assert current.get()[0] == 2


def test_reads_go_on_while_the_record_is_away() -> None:
    record = Record()
    current = CurrentDefinitions(record.load)
    record.away = True
    with pytest.raises(Unavailable):
        current.get()
    record.away = False
    current.get()
    record.away = True
    current.expire()
    began = time.monotonic()
    assert current.get() == (1, definitions())
    assert current.get() == (1, definitions())
    assert record.asked == 3
    assert time.monotonic() - began < 1


@pytest.mark.parametrize(
    ("sizes", "run"),
    [
        ([], []),
        ([1, 2, 3], ["0", "1", "2"]),
        ([1, SMALL_ROWS, 1, 1], ["2", "3"]),
        ([SMALL_ROWS], []),
    ],
)
def test_only_small_neighbours_are_put_together(sizes: Sequence[int], run: list[str]) -> None:
    files = [HistoryFile(str(n), size, WHEN, WHEN) for n, size in enumerate(sizes)]
    assert _longest_run(files) == run
