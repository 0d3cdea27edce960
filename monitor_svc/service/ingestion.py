"""Predictions and outcomes into windows and quality: whole batches at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

import numpy as np
import numpy.typing as npt

from monitor_svc.domain.monitors import SCORE, Monitor
from monitor_svc.domain.performance import QualitySketch, labelled_quality, no_quality
from monitor_svc.domain.profiles import (
    Labels,
    Numbers,
    NumericProfile,
    Profile,
    Reference,
    Values,
    as_labels,
)
from monitor_svc.domain.sketches import Floats, Ints, Sketch, merge, numeric_by_group
from monitor_svc.domain.watermarks import GRID_ORIGIN_US, advanced, votes_needed
from monitor_svc.service.judgement import Judgement
from monitor_svc.service.ports import (
    OutcomeRow,
    PredictionKey,
    PredictionRows,
    QualityKey,
    Store,
    WindowState,
)
from service_kit import metrics
from service_kit.clock import Clock

LABEL = "label"
#: An event from further ahead than this is a mistake: it would close every window before it.
FURTHEST_AHEAD = timedelta(days=31)
#: Edges of the sketch of the scores; below 0 and above 1 have a cell of their own.
SCORE_EDGES: Floats = np.concatenate([[np.nextafter(0.0, -1.0)], np.linspace(0.0, 1.0, 101)])

_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True, eq=False)
class _Rows:
    """New predictions of one endpoint, of all versions and roles, in columns."""

    batches: Sequence[PredictionRows]
    keep: npt.NDArray[np.bool_]
    ids: list[str]
    times: Ints
    scores: Floats
    batch_of: Ints

    @property
    def primary(self) -> npt.NDArray[np.bool_]:
        """Rows whose answers went to a caller."""
        shadow = np.array([batch.shadow for batch in self.batches], dtype=np.bool_)
        return self.keep & ~shadow[self.batch_of]

    def key(self, row: int) -> PredictionKey:
        """One row, as it is stored."""
        batch = self.batches[int(self.batch_of[row])]
        return PredictionKey(
            self.ids[row], batch.model_version, batch.shadow, batch.endpoint,
            int(self.times[row]), float(self.scores[row]),
        )  # fmt: skip

    def column(self, name: str, profile: Profile) -> Values:
        """A column over all rows, of the kind that the profile has; missing where not given."""
        numeric = isinstance(profile, NumericProfile)
        if numeric:
            parts = [_numbers(batch.columns.get(name), len(batch.ids)) for batch in self.batches]
            return Numbers(np.concatenate(parts))
        labels: list[str] = []
        for batch in self.batches:
            column = batch.columns.get(name)
            labels.extend([""] * len(batch.ids) if column is None else as_labels(column))
        return Labels(labels)


class Ingestion:
    """Takes what the streams bring. Every call is one transaction of its caller.

    Exactness: a prediction is counted once (by id, version and role) and an outcome replaces the
    one before it, so windows and quality are those of a single pass over the events, whatever is
    repeated, reordered or interrupted.
    """

    def __init__(self, judgement: Judgement, clock: Clock) -> None:
        self._judgement = judgement
        self._clock = clock
        self._dropped = metrics.counter(
            "monitor_dropped_rows_total", "Predictions not counted.", ["reason"]
        )

    def watched(self, store: Store, endpoints: set[str]) -> set[str]:
        """Those of some endpoints that somebody monitors: only their predictions are counted."""
        return {monitor.endpoint for monitor in store.monitors_of(endpoints)}

    def predictions(self, store: Store, batches: Sequence[PredictionRows]) -> None:
        """Count predictions; endpoints that nobody monitors are passed over."""
        store.lock()
        monitors = store.monitors_of({batch.endpoint for batch in batches})
        by_endpoint: dict[str, list[Monitor]] = {}
        for monitor in monitors:
            by_endpoint.setdefault(monitor.endpoint, []).append(monitor)
        for endpoint, watching in by_endpoint.items():
            rows = self._new_rows(store, [b for b in batches if b.endpoint == endpoint])
            if rows.keep.any():
                self._count(store, rows, watching)

    def outcomes(self, store: Store, metric: str, rows: Sequence[OutcomeRow]) -> None:
        """Take outcomes: the one that became known last counts, of equals the last to come."""
        store.lock()
        newest: dict[str, OutcomeRow] = {}
        for row in rows:
            known = newest.get(row.prediction_id)
            if np.isfinite(row.value) and (known is None or row.event_us >= known.event_us):
                newest[row.prediction_id] = row
        before = store.outcomes(metric, list(newest))
        changed = [
            row
            for row in newest.values()
            if (old := before.get(row.prediction_id)) is None or old.event_us <= row.event_us
        ]
        store.save_outcomes(metric, changed, self._clock.now())
        if metric == LABEL and changed:
            self._relabel(store, {row.prediction_id: row.value for row in changed}, before)

    def _new_rows(self, store: Store, batches: Sequence[PredictionRows]) -> _Rows:
        ids = [name for batch in batches for name in batch.ids]
        times = np.concatenate([batch.times_us for batch in batches])
        scores = np.concatenate([batch.scores for batch in batches])
        batch_of = np.repeat(np.arange(len(batches)), [len(batch.ids) for batch in batches])
        limit = (self._clock.now() + FURTHEST_AHEAD).timestamp() * 1e6
        sound = np.isfinite(scores) & (times > 0) & (times < limit)
        self._dropped.labels("implausible").inc(int((~sound).sum()))
        rows = _Rows(batches, sound, ids, times, scores, batch_of)
        return replace(rows, keep=sound & _first_seen(rows, store.known_predictions(ids)))

    def _count(self, store: Store, rows: _Rows, monitors: Sequence[Monitor]) -> None:
        stored = [rows.key(row) for row in np.flatnonzero(rows.keep).tolist()]
        store.add_predictions(stored)
        labels = store.outcomes(LABEL, [key.id for key in stored])
        known = {name: row.value for name, row in labels.items()}
        add_quality(store, monitors, _quality_deltas(monitors, stored, known, counted=True))
        for monitor in monitors:
            if rows.primary.any():
                self._sketch(store, monitor, rows)

    def _sketch(self, store: Store, monitor: Monitor, rows: _Rows) -> None:
        primary = rows.primary
        starts = (rows.times - GRID_ORIGIN_US) // monitor.window_us * monitor.window_us
        starts = starts + GRID_ORIGIN_US
        closed = monitor.closed_before_us
        timely = primary if closed is None else primary & (starts >= closed)
        self._dropped.labels("late").inc(int((primary & ~timely).sum()))
        earlier = timely & _before(starts, monitor.since_us)
        for epoch, chosen in ((monitor.epoch - 1, earlier), (monitor.epoch, timely & ~earlier)):
            if chosen.any():
                of_epoch = replace(monitor, epoch=epoch)
                reference = store.reference(monitor.id, epoch)
                store.save_windows(_added(store, of_epoch, reference, rows, starts, chosen))
        needed = votes_needed(monitor.min_rows)
        mark = advanced(monitor.mark, rows.times[primary], monitor.window_us, needed)
        if mark != monitor.mark:
            monitor = replace(monitor, mark=mark)
            store.save_monitor(monitor)
            self._judgement.close_windows(store, monitor)

    def _relabel(
        self, store: Store, values: Mapping[str, float], before: Mapping[str, OutcomeRow]
    ) -> None:
        found = store.predictions(list(values))
        monitors = store.monitors_of({key.endpoint for key in found})
        old = {name: row.value for name, row in before.items() if name in values}
        deltas = _quality_deltas(monitors, found, values, counted=False)
        for key, quality in _quality_deltas(monitors, found, old, counted=False).items():
            deltas[key] = deltas.get(key, no_quality()) - quality
        add_quality(store, monitors, deltas)


def add_quality(
    store: Store, monitors: Sequence[Monitor], deltas: Mapping[QualityKey, QualitySketch]
) -> None:
    """Add to the quality that is stored."""
    if not monitors or not deltas:
        return
    known = store.qualities(list(deltas))
    store.save_qualities(
        {key: known[key] + delta if key in known else delta for key, delta in deltas.items()}
    )


def _quality_deltas(
    monitors: Sequence[Monitor],
    predictions: Sequence[PredictionKey],
    labels: Mapping[str, float],
    *,
    counted: bool,
) -> dict[QualityKey, QualitySketch]:
    """What predictions (`counted`) and their labels add, by monitor, window, version and role."""
    found: dict[QualityKey, QualitySketch] = {}
    for monitor in monitors:
        groups: dict[QualityKey, list[PredictionKey]] = {}
        for row in predictions:
            if row.endpoint == monitor.endpoint and (counted or row.id in labels):
                start = (row.event_us - GRID_ORIGIN_US) // monitor.window_us * monitor.window_us
                key = QualityKey(
                    monitor.id, monitor.window_us, start + GRID_ORIGIN_US,
                    row.model_version, row.shadow,
                )  # fmt: skip
                groups.setdefault(key, []).append(row)
        for key, rows in groups.items():
            pairs = [(row.score, labels[row.id]) for row in rows if row.id in labels]
            table = np.array(pairs, dtype=np.float64).reshape(-1, 2)
            delta = labelled_quality(table[:, 0], table[:, 1])
            found[key] = replace(delta, rows=len(rows)) if counted else delta
    return found


def _first_seen(rows: _Rows, known: set[tuple[str, str, bool]]) -> npt.NDArray[np.bool_]:
    seen = set(known)
    fresh = np.zeros(len(rows.ids), dtype=np.bool_)
    for position, (name, batch) in enumerate(zip(rows.ids, rows.batch_of.tolist(), strict=True)):
        of = rows.batches[batch]
        key = (name, of.model_version, of.shadow)
        if key not in seen:
            seen.add(key)
            fresh[position] = True
    return fresh


def _before(starts: Ints, since_us: int | None) -> npt.NDArray[np.bool_]:
    if since_us is None:
        return np.zeros(len(starts), dtype=np.bool_)
    return np.asarray(starts < since_us)


def _added(
    store: Store,
    monitor: Monitor,
    reference: Reference | None,
    rows: _Rows,
    starts: Ints,
    timely: npt.NDArray[np.bool_],
) -> list[WindowState]:
    """The windows that get timely rows, with them."""
    unique, groups = np.unique(starts[timely], return_inverse=True)
    groups = groups.astype(np.int64)
    fresh: list[dict[str, Sketch]] = [{} for _ in unique]
    for name, profile in (reference.profiles if reference else {}).items():
        if name != SCORE:
            column = _chosen(rows.column(name, profile), timely)
            sketches: Sequence[Sketch] = profile.sketches(column, groups, len(unique))
            for target, sketch in zip(fresh, sketches, strict=True):
                target[name] = sketch
    for target, sketch in zip(fresh, _scores(reference, rows, timely, groups), strict=True):
        target[SCORE] = sketch
    counts = np.bincount(groups, minlength=len(unique)).tolist()
    existing = store.windows(monitor, unique.tolist())
    states = []
    for start, added, count in zip(unique.tolist(), fresh, counts, strict=True):
        blank = WindowState(monitor.id, monitor.epoch, start, start + monitor.window_us)
        states.append(_grown(existing.get(start, blank), added, count))
    return states


def _scores(
    reference: Reference | None, rows: _Rows, timely: npt.NDArray[np.bool_], groups: Ints
) -> list[Sketch]:
    profile = reference.profiles.get(SCORE) if reference else None
    edges = profile.edges if isinstance(profile, NumericProfile) else SCORE_EDGES
    count = int(groups.max()) + 1
    return list(numeric_by_group(rows.scores[timely], groups, count, edges))


def _grown(state: WindowState, sketches: Mapping[str, Sketch], count: int) -> WindowState:
    merged = {
        name: merge(state.sketches[name], sketch) if name in state.sketches else sketch
        for name, sketch in sketches.items()
    }
    return replace(state, row_count=state.row_count + count, sketches=merged)


def _chosen(column: Values, rows: npt.NDArray[np.bool_]) -> Values:
    if isinstance(column, Numbers):
        return Numbers(column.values[rows])
    return Labels([column.values[i] for i in np.flatnonzero(rows).tolist()])


def _numbers(column: Values | None, count: int) -> Floats:
    if isinstance(column, Numbers):
        return column.values
    return np.full(count, np.nan)
