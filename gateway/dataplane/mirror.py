"""After the answer: mirrored scoring by shadows and arms, then the log and the exposures."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, field
from math import nan

from gateway.dataplane import shadows
from gateway.dataplane.ask import Answer, Ask, BlockAnswer, LoneRows, Prepared, Scored, rows_of
from gateway.dataplane.log import EventLog
from gateway.dataplane.log_rows import NOTHING_MORE, ExposureRow, More
from gateway.dataplane.prepare import Preparer
from gateway.dataplane.replicas import ReplicaError
from gateway.dataplane.routing import Route, Variant
from gateway.dataplane.scorer import Scorer
from service_kit import metrics
from service_kit.errors import DomainError

#: Rows being mirrored at once; more are let go and counted.
MOST_ROWS = 4_096
_LEAST_DEADLINE_S = 1.0
_SHADOW = More(shadow=True)

_log = logging.getLogger(__name__)
_skipped = metrics.counter("mirror_skipped_total", "Rows not mirrored for lack of room.")


@dataclass(slots=True)
class _Tally:
    """What each arm made of one row."""

    scores: dict[str, float] = field(default_factory=dict)
    latencies: dict[str, int] = field(default_factory=dict)
    errors: set[str] = field(default_factory=set)


class Mirror:
    """Records answers, with what other variants would have answered.

    Args:
        preparer: Makes inputs for the other variants.
        scorer: Scores them.
        log: Where it all goes.
    """

    def __init__(self, preparer: Preparer, scorer: Scorer, log: EventLog) -> None:
        self._scorer = scorer
        self._preparer = preparer
        self._log = log
        self._rows = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def record(self, ask: Ask, answer: Answer) -> None:
        """Log an answer; what is to be mirrored is scored in the background first."""
        latency = int((time.monotonic() - ask.began) * 1e6)
        for group in answer.scored:
            self._log_rows(
                answer,
                group.served or group.assigned,
                group.rows,
                [each[0] for each in group.outputs],
                latency,
                group.prepared,
                _more(answer.route, group),
            )
        if ask.version:
            return  # asked for by name: no part of the traffic split
        work = [each for each in _mirrored(answer) if _fits(ask, each.variant)]
        rows = sum(len(each.rows) for each in work)
        if rows and self._rows + rows > MOST_ROWS:
            _skipped.inc(rows)
            work = []
        if work:
            self._rows += rows
            task = asyncio.create_task(self._mirror(ask, answer, work, rows))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        elif answer.route.arms:
            self._expose(answer, _tallies(answer))

    def record_lone(self, rows: LoneRows) -> None:
        """Log answers to requests for one row, at an endpoint without shadows and arms."""
        latencies = [int(seconds * 1e6) for seconds in rows.seconds]
        self._log.predictions(
            *(rows.route, rows.variant, rows.ids, rows.units, rows.event_times_us),
            *(rows.scores, latencies, rows.prepared),
        )

    def record_block(self, answer: BlockAnswer) -> None:
        """Log an answer to a matrix of rows, at an endpoint without shadows and arms."""
        latency = int((time.monotonic() - answer.began) * 1e6)
        self._log.block(answer, latency)

    async def close(self, seconds: float = 1.0) -> None:
        """Wait for what is being mirrored."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds)
        for task in self._tasks:
            task.cancel()

    async def _mirror(self, ask: Ask, answer: Answer, work: list[_Work], rows: int) -> None:
        tallies = _tallies(answer) if answer.route.arms else {}
        try:
            for each in work:
                await self._score(ask, answer, each, tallies)
            if answer.route.arms:
                self._expose(answer, tallies)
        except Exception:
            _log.exception("mirroring failed", extra={"endpoint": answer.route.endpoint})
        finally:
            self._rows -= rows

    async def _score(
        self, ask: Ask, answer: Answer, work: _Work, tallies: dict[int, _Tally]
    ) -> None:
        variant, rows = work.variant, work.rows
        times = [answer.event_times_us[row] for row in rows] if ask.event_times_us else None
        deadline = time.monotonic() + max(answer.route.deadline_s, _LEAST_DEADLINE_S)
        name = variant.name
        try:
            prepared = await self._preparer.prepare(variant, ask, rows, times, deadline, work.reuse)
            outputs, took = await self._scorer.infer(variant, prepared.matrix, len(rows), deadline)
        except (ReplicaError, DomainError) as error:
            for row in rows:
                tallies.setdefault(row, _Tally()).errors.add(name)
            more = More(shadow=True, failure=error.reason)
            self._log_rows(answer, variant, rows, [], 0, None, more)
            shadows.failed(answer.route.endpoint, name, len(rows))
            return
        scores = [each[0] for each in outputs]
        for row, score in zip(rows, scores, strict=True):
            tally = tallies.setdefault(row, _Tally())
            tally.scores[name], tally.latencies[name] = score, took
        self._log_rows(answer, variant, rows, scores, took, prepared, _SHADOW)
        shadows.scored(answer.route.endpoint, name, took / 1e6)
        if work.group.served is not None:
            shadows.compared(answer.route.endpoint, name, _answered(work.group, rows), scores)

    def _log_rows(
        self,
        answer: Answer,
        variant: Variant,
        rows: list[int],
        scores: list[float],
        latency_us: int,
        prepared: Prepared | None,
        more: More,
    ) -> None:
        ids = rows_of(answer.ids, rows)
        units = ids if answer.units is answer.ids else rows_of(answer.units, rows)
        times = rows_of(answer.event_times_us, rows)
        latencies = [latency_us] * len(scores)
        self._log.predictions(
            answer.route, variant, ids, units, times, scores, latencies, prepared, more
        )

    def _expose(self, answer: Answer, tallies: dict[int, _Tally]) -> None:
        route = answer.route
        arms = tuple(arm.name for arm in route.arms)
        places = {name: place for place, name in enumerate(arms)}
        exposed = [
            ExposureRow(
                endpoint=route.endpoint,
                experiment=route.experiment,
                arms=arms,
                unit=answer.units[row],
                prediction_id=answer.ids[row],
                event_time_us=answer.event_times_us[row],
                assigned=places[group.assigned.name],
                scores=[tallies[row].scores.get(arm, nan) for arm in arms],
                latencies_us=[tallies[row].latencies.get(arm, 0) for arm in arms],
                errors=[int(arm in tallies[row].errors) for arm in arms],
            )
            for group in answer.scored
            if group.assigned.name in places
            for row in group.rows
        ]
        if exposed:
            self._log.exposures(exposed)


@dataclass(slots=True)
class _Work:
    variant: Variant
    rows: list[int]
    reuse: Prepared | None
    group: Scored


def _fits(ask: Ask, variant: Variant) -> bool:
    # A matrix that the caller encoded for one version is no failure of another.
    width = len(variant.plan.fields) * 4
    return ask.matrix is None or len(ask.matrix) == width * len(ask.instances)


def _answered(group: Scored, rows: list[int]) -> list[float]:
    if len(rows) == len(group.rows):
        return [outputs[0] for outputs in group.outputs]
    scores = {row: outputs[0] for row, outputs in zip(group.rows, group.outputs, strict=True)}
    return [scores[row] for row in rows]


def _mirrored(answer: Answer) -> list[_Work]:
    route = answer.route
    if not route.shadows and not (route.paired and route.arms):
        return []
    work: list[_Work] = []
    for group in answer.scored:
        done = {variant.name for variant in group.failed}
        if group.served is not None:
            done.add(group.served.name)
        for variant, rows in _wanted(route, answer, group):
            if variant.name not in done:
                # Inputs of the whole group can serve as they are only for the whole group.
                reuse = group.prepared if len(rows) == len(group.rows) else None
                work.append(_Work(variant, rows, reuse, group))
    return work


def _wanted(route: Route, answer: Answer, group: Scored) -> list[tuple[Variant, list[int]]]:
    wanted: dict[str, tuple[Variant, list[int]]] = {}
    arms = route.arms if route.paired and group.assigned in route.arms else ()
    for row in group.rows:
        chosen = {variant.name: variant for variant in arms}
        chosen.update({v.name: v for v in route.shadows_of(answer.units[row])})
        for name, variant in chosen.items():
            wanted.setdefault(name, (variant, []))[1].append(row)
    return list(wanted.values())


def _tallies(answer: Answer) -> dict[int, _Tally]:
    tallies: dict[int, _Tally] = {}
    for group in answer.scored:
        failed = {variant.name for variant in group.failed}
        for at, row in enumerate(group.rows):
            tally = tallies[row] = _Tally(errors=set(failed))
            if group.served is not None:
                tally.scores[group.served.name] = group.outputs[at][0]
                tally.latencies[group.served.name] = group.latency_us
    return tallies


def _more(route: Route, group: Scored) -> More:
    compared = route.shadows or route.paired
    if not (group.fallback or group.cached or compared):
        return NOTHING_MORE
    took = group.latency_us if compared else 0
    return More(fallback=group.fallback, model_latency_us=took, cached=group.cached)
