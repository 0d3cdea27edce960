"""Exposures and outcomes in, sufficient statistics out.

Latency and errors count with the exposure; the other metrics when the outcome is there too,
whichever of the two comes first. Each prediction counts once, and in a randomized experiment
each unit: the arm is drawn once a unit, so that a unit's later exposures would only pretend to
be further evidence.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import numpy as np

from experiment_svc.domain import Design, Evidence, Experiment, Exposures, exposed, gather, observed
from experiment_svc.domain.moments import Floats, Ints
from experiment_svc.service.ports import Exposed, Journal
from service_kit.clock import Clock

FUTURE = timedelta(days=31)
"""How far ahead of this machine's clock an event may lie, as at the gateway's door."""
MICROSECOND = timedelta(microseconds=1)
LONGEST_ID = 128


@dataclass(frozen=True, slots=True)
class ExposureBatch:
    """Exposures of one experiment; `rows` follows the order of `arms` given here."""

    experiment_id: str
    arms: tuple[str, ...]
    unit_ids: Sequence[str]
    prediction_ids: Sequence[str]
    rows: Exposures


@dataclass(frozen=True, slots=True)
class OutcomeBatch:
    """Outcomes of predictions: finite values and the times they became known."""

    prediction_ids: Sequence[str]
    values: Floats
    event_times_us: Ints


@dataclass(frozen=True, slots=True)
class Ingestion:
    """The use cases. The caller opens the transaction (`journal`) and may try it again."""

    clock: Clock

    def expose(self, journal: Journal, batches: Sequence[ExposureBatch]) -> Counter[str]:
        """Take exposures.

        Returns:
            Rows by what became of them: `counted`, `unknown` (no such running experiment, or
            not its arms), `refused` (an id or time that cannot be), `repeated`.
        """
        journal.exclusive()
        fates: Counter[str] = Counter()
        running = journal.running(sorted({batch.experiment_id for batch in batches}))
        for experiment_id in dict.fromkeys(batch.experiment_id for batch in batches):
            mine = [batch for batch in batches if batch.experiment_id == experiment_id]
            total = sum(len(batch.prediction_ids) for batch in mine)
            batch = _merged(running.get(experiment_id), mine)
            if batch is None:
                fates["unknown"] += total
                continue
            fates["unknown"] += total - len(batch.prediction_ids)
            fates.update(self._count(journal, running[experiment_id], batch))
        return fates

    def observe(self, journal: Journal, batches: Sequence[OutcomeBatch]) -> Counter[str]:
        """Take outcomes.

        Returns:
            Outcomes by what became of them: `counted`, `repeated`, `late`, `held` (their
            exposure has not come), `refused`, `unknown` (no experiment runs).
        """
        journal.exclusive()
        batch = _joined(batches)
        total = len(batch.prediction_ids)
        if not journal.any_running():
            return Counter(unknown=total)
        sound = _sound(batch.prediction_ids, batch.event_times_us, self._latest())
        sound = sound[np.isfinite(batch.values[sound])]
        first = _first([batch.prediction_ids[row] for row in sound])
        fates = Counter(refused=total - sound.size, repeated=sound.size - first.size)
        batch = _taken(batch, sound[first])
        known: set[int] = set()
        for found in journal.find(batch.prediction_ids):
            fates.update(_settle(journal, found, batch))
            known.update(found.index.tolist())
        unmatched = _taken(
            batch,
            np.array([row for row in range(first.size) if row not in known], dtype=np.int64),
        )
        if unmatched.prediction_ids:
            now = self.clock.now()
            journal.hold(unmatched.prediction_ids, unmatched.values, unmatched.event_times_us, now)
        fates["held"] += len(unmatched.prediction_ids)
        return fates

    def _count(
        self, journal: Journal, experiment: Experiment, batch: ExposureBatch
    ) -> Counter[str]:
        sound = _sound(batch.prediction_ids, batch.rows.event_times_us, self._latest())
        fresh = _fresh(journal, experiment, batch, sound)
        if fresh.size:
            ids = [batch.prediction_ids[row] for row in fresh]
            _record(journal, experiment, ids, batch.rows.take(fresh))
        return Counter(
            refused=len(batch.prediction_ids) - sound.size,
            repeated=sound.size - fresh.size,
            counted=fresh.size,
        )

    def _latest(self) -> int:
        return microseconds(self.clock.now() + FUTURE)


def microseconds(moment: datetime) -> int:
    """Microseconds since the Unix epoch."""
    epoch = datetime.fromtimestamp(0, tz=moment.tzinfo)
    return (moment - epoch) // MICROSECOND


def _merged(
    experiment: Experiment | None, batches: Sequence[ExposureBatch]
) -> ExposureBatch | None:
    """One batch of all those that are of the experiment's arms; None when none is."""
    names = tuple(arm.name for arm in experiment.arms) if experiment else ()
    fitting = [batch for batch in batches if names and sorted(batch.arms) == sorted(names)]
    if not fitting:
        return None
    rows = [_in_order(names, batch) for batch in fitting]
    return ExposureBatch(
        fitting[0].experiment_id,
        names,
        [one for batch in fitting for one in batch.unit_ids],
        [one for batch in fitting for one in batch.prediction_ids],
        Exposures(
            np.concatenate([part.assigned for part in rows]),
            np.concatenate([part.scores for part in rows]),
            np.concatenate([part.latencies_us for part in rows]),
            np.concatenate([part.failed for part in rows]),
            np.concatenate([part.event_times_us for part in rows]),
        ),
    )


def _in_order(names: Sequence[str], batch: ExposureBatch) -> Exposures:
    """The rows with their arms in the experiment's order."""
    if tuple(names) == batch.arms:
        return batch.rows
    order = np.array([batch.arms.index(name) for name in names], dtype=np.int64)
    rows = batch.rows
    return replace(
        rows,
        assigned=np.argsort(order)[rows.assigned],
        scores=rows.scores[:, order],
        latencies_us=rows.latencies_us[:, order],
        failed=rows.failed[:, order],
    )


def _sound(ids: Sequence[str], event_times_us: Ints, latest: int) -> Ints:
    """Rows with an id that can be one and a time that can have been."""
    usable = np.array([0 < len(one) <= LONGEST_ID and "\0" not in one for one in ids], dtype=bool)
    return np.flatnonzero(usable & (event_times_us <= latest))


def _first(keys: Sequence[str] | Sequence[int]) -> Ints:
    """Places at which a key occurs for the first time."""
    places: dict[object, int] = {}
    for place, key in enumerate(keys):
        places.setdefault(key, place)
    return np.fromiter(places.values(), dtype=np.int64, count=len(places))


def _fresh(journal: Journal, experiment: Experiment, batch: ExposureBatch, rows: Ints) -> Ints:
    """Rows whose prediction, and in a randomized experiment whose unit, is new."""
    ids = [batch.prediction_ids[row] for row in rows]
    known = journal.recorded(experiment.id, ids)
    rows = np.array(
        [rows[place] for place in _first(ids) if ids[place] not in known], dtype=np.int64
    )
    if experiment.design is Design.PAIRED or not rows.size:
        return rows
    units = [unit_key(batch.unit_ids[row] or batch.prediction_ids[row]) for row in rows]
    first = _first(units)
    new = journal.enrol(experiment.id, [units[place] for place in first])
    return np.array([rows[place] for place in first if units[place] in new], dtype=np.int64)


def unit_key(unit_id: str) -> int:
    """A unit as a signed 64-bit number, so that none of its text is kept."""
    digest = hashlib.blake2b(unit_id.encode(), digest_size=8, person=b"unit").digest()
    return int.from_bytes(digest, "big", signed=True)


def _record(journal: Journal, experiment: Experiment, ids: Sequence[str], rows: Exposures) -> None:
    """Put new exposures on record, together with outcomes that came before them."""
    outcomes = np.full(len(ids), np.nan)
    held = journal.held(ids)
    for place, prediction_id in enumerate(ids):
        if prediction_id in held:
            value, known_us = held[prediction_id]
            if not _too_late(experiment, known_us, int(rows.event_times_us[place])):
                outcomes[place] = value
    evidence = [exposed(experiment, rows)]
    settled = np.flatnonzero(np.isfinite(outcomes))
    if settled.size:
        part = rows.take(settled)
        evidence.append(
            observed(experiment, part.assigned, part.scores, part.event_times_us, outcomes[settled])
        )
    journal.record(experiment.id, ids, rows, outcomes)
    journal.add(experiment.id, _together(evidence))


def _settle(journal: Journal, found: Exposed, batch: OutcomeBatch) -> Counter[str]:
    """Join outcomes with the exposures of one experiment."""
    delays = batch.event_times_us[found.index] - found.event_times_us
    open_rows = found.settled == 0
    late = open_rows & (delays > found.experiment.max_outcome_delay // MICROSECOND)
    rows = np.flatnonzero(open_rows & ~late)
    fates = Counter(counted=rows.size, late=int(late.sum()), repeated=int((~open_rows).sum()))
    if rows.size:
        index = found.index[rows]
        values = batch.values[index]
        ids = [batch.prediction_ids[place] for place in index]
        journal.settle(found.experiment.id, ids, values)
        journal.add(
            found.experiment.id,
            observed(
                found.experiment,
                found.assigned[rows],
                found.scores[rows],
                found.event_times_us[rows],
                values,
            ),
        )
    return fates


def _too_late(experiment: Experiment, known_us: int, exposed_us: int) -> bool:
    return known_us - exposed_us > experiment.max_outcome_delay // MICROSECOND


def _together(parts: Sequence[Mapping[int, Evidence]]) -> Mapping[int, Evidence]:
    days = sorted({day for part in parts for day in part})
    return {day: gather(part[day] for part in parts if day in part) for day in days}


def _joined(batches: Sequence[OutcomeBatch]) -> OutcomeBatch:
    return OutcomeBatch(
        [one for batch in batches for one in batch.prediction_ids],
        np.concatenate([batch.values for batch in batches]),
        np.concatenate([batch.event_times_us for batch in batches]),
    )


def _taken(batch: OutcomeBatch, rows: Ints) -> OutcomeBatch:
    return OutcomeBatch(
        [batch.prediction_ids[row] for row in rows], batch.values[rows], batch.event_times_us[rows]
    )
