"""Drives the suite with the replay of the year: features, requests, outcomes, history."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Self

import pandas as pd

from client.sdk import Client
from examples.flights.data import ENTITY_KEYS, YEAR_END, YEAR_START, as_arrow, label_table
from examples.flights.definitions import INPUTS_OF_REQUEST, LABEL_SOURCE, NAME
from examples.flights.features import TABLES, feature_tables
from examples.flights.replay import ReplayPlan, Tick

THREADS = 6
ROWS_A_CALL = 64
HISTORY_EVERY = timedelta(days=1)
ASKED = (*ENTITY_KEYS, *INPUTS_OF_REQUEST)
"""What a caller gives: entity keys and request-time features."""


@dataclass
class Asked:
    """A prediction that was asked for, and its outcome once the flight has landed."""

    prediction_id: str
    score: float
    version: str
    departure: datetime
    late: int | None = None


@dataclass
class Ledger:
    """Everything that the replay has asked and reported, by flight."""

    asked: dict[str, Asked] = field(default_factory=dict)
    outcomes: int = 0
    pushed: int = 0
    labelled: int = 0
    fallbacks: int = 0


class History:
    """Hands over what became known, once a day: labelled flights and feature tables.

    The rows are those of the tables themselves, so that a training set is exact on their grid.
    """

    def __init__(self, client: Client, ledger: Ledger, known_until: datetime) -> None:
        self._client = client
        self._ledger = ledger
        self._known_until = known_until
        labels = label_table(YEAR_START, YEAR_END)
        self._labels = labels.sort_values("label_timestamp", ignore_index=True)

    def catch_up(self, now: datetime, *, at_once: bool = False) -> None:
        """Ingests what became known since the last time, when a day has passed or `at_once`."""
        if now - self._known_until < HISTORY_EVERY and not at_once:
            return
        for name, table in feature_tables().items():
            self._ingest(name, _between(table, "event_timestamp", self._known_until, now))
        landed = _between(self._labels, "label_timestamp", self._known_until, now)
        self._ledger.labelled += len(landed)
        self._ingest(LABEL_SOURCE, landed)
        self._known_until = now

    def _ingest(self, source: str, rows: pd.DataFrame) -> None:
        if len(rows):
            self._client.ingest(source, as_arrow(rows))


class Traffic:
    """Asks for the predictions of each tick and reports what came of earlier ones."""

    def __init__(self, client: Client, ledger: Ledger) -> None:
        self._client = client
        self._ledger = ledger
        self._unsent: dict[str, list[pd.DataFrame]] = {}
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="replay")
        self._reporting: list[Future[None]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pool.shutdown(cancel_futures=True)

    def serve(self, tick: Tick) -> None:
        """Pushes features, asks for predictions, reports outcomes, in this order.

        The report goes on beside what follows, as nobody waits for it.
        """
        for name, rows in tick.features.items():
            self._unsent.setdefault(name, []).append(rows)
        if len(tick.requests):  # nobody reads what is pushed in the dead of the night
            self._push()
            self._predict(tick.requests)
        if len(tick.outcomes):
            self.finish()
            self._reporting = [self._pool.submit(self._report, tick.outcomes)]

    def finish(self) -> None:
        """Waits until the last report has arrived."""
        reports, self._reporting = self._reporting, []
        for report in reports:
            report.result()

    def _push(self) -> None:
        tables = {name: newest(name, parts) for name, parts in self._unsent.items()}
        self._unsent.clear()
        self._ledger.pushed += sum(len(rows) for rows in tables.values())
        self._all(self._push_one, tables.items())

    def _push_one(self, item: tuple[str, pd.DataFrame]) -> None:
        self._client.push(item[0], as_arrow(item[1]), online_only=True)

    def _predict(self, requests: pd.DataFrame) -> None:
        parts = [
            requests.iloc[start : start + ROWS_A_CALL]
            for start in range(0, len(requests), ROWS_A_CALL)
        ]
        self._all(self._predict_part, parts)

    def _predict_part(self, rows: pd.DataFrame) -> None:
        times = [each.to_pydatetime() for each in rows["event_timestamp"]]
        found = self._client.predict(NAME, instances_of(rows), event_times=times)
        for flight, departure, answer in zip(rows["flight_id"], times, found, strict=True):
            score = float(answer["outputs"]["score"])
            self._ledger.fallbacks += bool(answer["fallback"])
            self._ledger.asked[flight] = Asked(
                answer["prediction_id"], score, answer["model_version"], departure
            )

    def _report(self, outcomes: pd.DataFrame) -> None:
        listed = []
        landed = zip(
            outcomes["flight_id"], outcomes["late"], outcomes["label_timestamp"], strict=True
        )
        for flight, late, when in landed:
            asked = self._ledger.asked[flight]
            asked.late = int(late)
            listed.append((asked.prediction_id, float(late), when.to_pydatetime()))
        self._client.record_outcomes(listed)
        self._ledger.outcomes += len(listed)

    def _all(self, call: Any, items: Any) -> None:
        futures = [self._pool.submit(call, item) for item in items]
        wait(futures)
        for future in futures:
            future.result()


def newest(name: str, parts: list[pd.DataFrame]) -> pd.DataFrame:
    """The newest row of each entity, of several ticks' rows of a feature table."""
    if len(parts) == 1:
        return parts[0]
    rows = pd.concat(parts, ignore_index=True)
    return rows.drop_duplicates(TABLES[name].key, keep="last")


def instances_of(requests: pd.DataFrame) -> list[Mapping[str, Any]]:
    """Requests as the endpoint takes them: entity keys and request-time features."""
    listed: list[Mapping[str, Any]] = requests[list(ASKED)].to_dict("records")
    return listed


def history_until(end: datetime) -> Iterator[tuple[str, pd.DataFrame]]:
    """Each data source with all rows that were known by `end`."""
    for name, table in feature_tables().items():
        yield name, table[table["event_timestamp"] <= end]
    labels = label_table(YEAR_START, end)
    yield LABEL_SOURCE, labels[labels["label_timestamp"] <= end]


def ticks_of(plan: ReplayPlan) -> Iterator[Tick]:
    """The ticks of a plan at which there is something to do."""
    return (tick for tick in plan if len(tick.requests) or len(tick.outcomes) or len(tick.features))


def _between(table: pd.DataFrame, column: str, start: datetime, end: datetime) -> pd.DataFrame:
    """Rows with start < column <= end of a table that is sorted by the column."""
    first, last = table[column].searchsorted([pd.Timestamp(start), pd.Timestamp(end)], "right")
    return table.iloc[first:last]
