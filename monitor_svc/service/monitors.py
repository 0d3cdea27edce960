"""Use cases of people and programs: monitors, reports, alerts, outcomes."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from monitor_svc.domain.alerts import Action, Alert, AlertKind, AlertState
from monitor_svc.domain.monitors import Monitor, check_monitor, window_start
from monitor_svc.domain.performance import metrics, total_quality
from monitor_svc.domain.profiles import Reference, build_reference
from monitor_svc.service.ingestion import FURTHEST_AHEAD, LABEL
from monitor_svc.service.judgement import Judgement
from monitor_svc.service.ports import (
    Detectors,
    OutcomeRow,
    QualityKey,
    ReferenceRows,
    Store,
    TrainingSets,
    WindowState,
)
from service_kit.clock import Clock
from service_kit.errors import AlreadyExists, Conflict, InvalidArgument, NotFound

MAX_REFERENCE_ROWS = 100_000
_PREDICTION_ID = re.compile(r"[\x21-\x7e]{1,64}")
_METRIC = re.compile(r"[\x20-\x7e]{0,64}")
MAX_OUTCOMES = 10_000


@dataclass(frozen=True, slots=True)
class PerformanceRow:
    """Quality of one version in one window of a report."""

    model_version: str
    shadow: bool
    start_us: int
    end_us: int
    rows: int
    labelled: int
    metrics: Mapping[str, float]


class Monitoring:
    """What the API offers. A method with a `store` runs in the transaction of its caller."""

    def __init__(
        self,
        detectors: Detectors,
        training_sets: TrainingSets,
        judgement: Judgement,
        clock: Clock,
    ) -> None:
        self._detectors = detectors
        self._training_sets = training_sets
        self._judgement = judgement
        self._clock = clock

    def check(self, monitor: Monitor) -> None:
        """Refuse a monitor that cannot work, naming the field at fault."""
        check_monitor(monitor)
        self._detectors.configured(monitor.detectors)

    def prepare_reference(self, monitor: Monitor, rows: ReferenceRows | None) -> Reference | None:
        """Make the reference of rows, or of the monitor's training set; None without either.

        Apart from the transaction that saves it, because it may read from another service.
        """
        self.check(monitor)
        if rows is None and monitor.reference_training_set:
            name = monitor.reference_training_set
            rows = self._training_sets.read(name, MAX_REFERENCE_ROWS)
        if rows is None:
            return None
        if not rows.row_count or not rows.columns:
            raise InvalidArgument(
                "REFERENCE_EMPTY", "the reference has no rows", field="monitor.reference_rows"
            )
        columns = dict(rows.columns)
        if monitor.features:
            if missing := [name for name in monitor.features if name not in columns]:
                raise InvalidArgument(
                    "FEATURE_NOT_IN_REFERENCE",
                    f"{len(missing)} of the features are not in the reference",
                    field="monitor.features",
                )
            columns = {name: columns[name] for name in monitor.features}
        return build_reference(
            columns, rows.row_count, rows.times_us, monitor.window_us, monitor.min_rows
        )

    def create(self, store: Store, monitor: Monitor, reference: Reference | None) -> Monitor:
        """Add a monitor; raises AlreadyExists."""
        if store.monitor(monitor.id) is not None:
            raise AlreadyExists("MONITOR_EXISTS", "a monitor of this id exists", field="monitor_id")
        rows = reference.row_count if reference else 0
        monitor = replace(monitor, created=self._clock.now(), epoch=1, reference_rows=rows)
        store.save_monitor(monitor)
        if reference:
            store.save_reference(monitor.id, 1, reference)
        return monitor

    def update(
        self, store: Store, read: Monitor, changed: Monitor, reference: Reference | None
    ) -> Monitor:
        """Change a monitor that was `read` before; raises Conflict when it is no longer so.

        With a new reference or window length an epoch begins: open windows are judged by the old
        one, the alert about drift is resolved, and later windows are held against the new one.
        """
        store.lock()
        current = self.get(store, changed.id)
        if current != read:
            raise Conflict("MONITOR_CHANGED", "the monitor was changed meanwhile; read it again")
        given = reference is not None and (
            not changed.reference_training_set
            or changed.reference_training_set != current.reference_training_set
        )
        kept = replace(
            changed,
            endpoint=current.endpoint,
            created=current.created,
            mark=current.mark,
            epoch=current.epoch,
            reference_rows=current.reference_rows,
            since_us=current.since_us,
            reference_version="" if given else current.reference_version,
            following=None if given or not changed.follow_champion else current.following,
        )
        if reference is None and kept.window == current.window:
            store.save_monitor(kept)
            return kept
        for window in store.open_windows(current.id, None):
            self._judgement.close(store, current, window, silent=True)
        kept = replace(kept, since_us=kept.closed_before_us)
        return self._begin_epoch(store, kept, reference, "the reference changed")

    def follow(
        self, store: Store, read: Monitor, training_set: str, reference: Reference | None
    ) -> Monitor | None:
        """Let the reference be that of the version that answers; None when that is out of date.

        Windows that have begun stay with the old reference, and nothing is done any more about
        what they show; the new one is in force from the end of the newest of them on. Without a
        `reference` the present one is of that version as well.

        Args:
            store: A transaction.
            read: The monitor as it was read, with the version to be followed.
            training_set: Training set of that version.
            reference: Made of it.
        """
        store.lock()
        current, following = store.monitor(read.id), read.following
        if current != read or current is None or following is None:
            return None
        if current.following is None or current.following.version != following.version:
            return None
        followed = replace(
            current,
            reference_training_set=training_set,
            reference_version=following.version,
            following=None,
        )
        if reference is None:
            store.save_monitor(followed)
            return followed
        since = window_start(current.mark.time_us or 0, current.window_us) + current.window_us
        for window in store.open_windows(current.id, None):
            # Only times that the watermark does not believe lie there.
            if window.start_us >= since:
                self._judgement.close(store, current, window, silent=True)
        followed = replace(followed, since_us=since)
        why = f"the reference followed the champion: it is that of {following.version} now"
        return self._begin_epoch(store, followed, reference, why)

    def _begin_epoch(
        self, store: Store, monitor: Monitor, reference: Reference | None, why: str
    ) -> Monitor:
        known = reference or store.reference(monitor.id, monitor.epoch)
        rows = known.row_count if known else 0
        monitor = replace(monitor, epoch=monitor.epoch + 1, reference_rows=rows)
        store.save_monitor(monitor)
        if known:
            # The blocks of an old reference are windows of the old length.
            blocks = known.blocks if reference else ()
            store.save_reference(monitor.id, monitor.epoch, replace(known, blocks=blocks))
        if alert := store.active_alert(monitor.id, AlertKind.DRIFT):
            resolved = replace(alert, state=AlertState.RESOLVED, comment=why)
            store.save_alert(resolved, monitor.endpoint)
        return monitor

    def get(self, store: Store, monitor_id: str) -> Monitor:
        """A monitor; raises NotFound."""
        if (monitor := store.monitor(monitor_id)) is None:
            raise NotFound("MONITOR_NOT_FOUND", "no such monitor", field="name")
        return monitor

    def windows(self, store: Store, monitor_id: str, limit: int, before: str) -> list[WindowState]:
        """Closed windows, newest first."""
        self.get(store, monitor_id)
        return store.closed_windows(monitor_id, limit, before)

    def performance(self, store: Store, monitor_id: str, group_by: str) -> list[PerformanceRow]:
        """Quality by version and window, oldest first.

        `group_by` is empty (the monitor's windows), `MONTH`, or a length like `7d` or `12h`.
        """
        monitor = self.get(store, monitor_id)
        span = group_span(monitor, group_by)
        groups: dict[tuple[int, int, str, bool], list[QualityKey]] = {}
        qualities = store.quality_of(monitor)
        for key in qualities:
            start, end = span(key.start_us)
            groups.setdefault((start, end, key.model_version, key.shadow), []).append(key)
        found = []
        for (start, end, version, shadow), keys in sorted(groups.items()):
            total = total_quality(qualities[key] for key in keys)
            found.append(
                PerformanceRow(
                    version, shadow, start, end, total.rows, total.labelled, metrics(total)
                )
            )
        return found

    def alert(self, store: Store, monitor_id: str, alert_id: str) -> tuple[Alert, list[Action]]:
        """An alert with its actions; raises NotFound."""
        alert = store.alert(alert_id)
        if alert is None or alert.monitor != monitor_id:
            raise NotFound("ALERT_NOT_FOUND", "no such alert", field="name")
        return alert, store.actions_of([alert.id])

    def acknowledge(
        self, store: Store, monitor_id: str, alert_id: str, comment: str
    ) -> tuple[Alert, list[Action]]:
        """Say that a person has seen an alert; of a resolved one only the comment is kept."""
        store.lock()
        alert, actions = self.alert(store, monitor_id, alert_id)
        if len(comment) > 4_000:
            raise InvalidArgument("COMMENT_TOO_LONG", "at most 4000 characters", field="comment")
        state = alert.state if alert.state is AlertState.RESOLVED else AlertState.ACKNOWLEDGED
        alert = replace(alert, state=state, comment=comment or alert.comment)
        store.save_alert(alert, self.get(store, monitor_id).endpoint)
        return alert, actions

    def record_outcomes(self, store: Store, metric: str, rows: Sequence[OutcomeRow]) -> int:
        """Take outcomes and send them to the stream; gives their number."""
        check_outcomes(metric, rows, self._clock.now() + FURTHEST_AHEAD)
        if rows:
            store.publish_outcomes(metric or LABEL, rows)
        return len(rows)


def check_outcomes(metric: str, rows: Sequence[OutcomeRow], latest: datetime) -> None:
    """Refuse what cannot be an outcome, naming the field.

    Everything is checked here: once they are on the stream, one that no database takes would
    hold up all that came with it.
    """
    if not _METRIC.fullmatch(metric):
        raise InvalidArgument(
            "INVALID_OUTCOME", "must be up to 64 printable ASCII characters", field="metric"
        )
    latest_us = int(latest.timestamp() * 1e6)
    if len(rows) > MAX_OUTCOMES:
        raise InvalidArgument(
            "TOO_MANY_OUTCOMES", f"at most {MAX_OUTCOMES} at a time", field="outcomes"
        )
    for number, row in enumerate(rows):
        where = f"outcomes[{number}]"
        if not _PREDICTION_ID.fullmatch(row.prediction_id):
            raise InvalidArgument(
                "INVALID_OUTCOME",
                "must be 1 to 64 printable ASCII characters",
                field=f"{where}.prediction_id",
            )
        if not math.isfinite(row.value):
            raise InvalidArgument("NOT_FINITE", "must be finite", field=f"{where}.value")
        if not 0 < row.event_us <= latest_us:
            raise InvalidArgument(
                "INVALID_OUTCOME",
                "must lie after 1970 and at most 31 days ahead",
                field=f"{where}.event_time",
            )


def group_span(monitor: Monitor, group_by: str) -> Grouping:
    """How a report groups windows; raises InvalidArgument (`INVALID_GROUP_BY`)."""
    if group_by == "MONTH":
        return Grouping(monitor.window_us, monthly=True)
    if not group_by:
        return Grouping(monitor.window_us)
    units = {"h": 3_600_000_000, "d": 86_400_000_000}
    number, unit = group_by[:-1], units.get(group_by[-1])
    if unit and number.isascii() and number.isdigit() and len(number) < 6:
        length = int(number) * unit
        if length and length % monitor.window_us == 0:
            return Grouping(length)
    raise InvalidArgument(
        "INVALID_GROUP_BY",
        "must be MONTH or a multiple of the window, like 7d or 12h",
        field="group_by",
    )


@dataclass(frozen=True, slots=True)
class Grouping:
    """Start and end, microseconds, of the group of a window; a window belongs by its start."""

    length_us: int
    monthly: bool = False

    def __call__(self, start_us: int) -> tuple[int, int]:
        """The group of the window that starts there."""
        if self.monthly:
            moment = datetime.fromtimestamp(start_us / 1e6, UTC)
            first = datetime(moment.year, moment.month, 1, tzinfo=UTC)
            following = datetime(
                moment.year + moment.month // 12, moment.month % 12 + 1, 1, tzinfo=UTC
            )
            return int(first.timestamp()) * 10**6, int(following.timestamp()) * 10**6
        start = window_start(start_us, self.length_us)
        return start, start + self.length_us
