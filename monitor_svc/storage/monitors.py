"""Rows of monitors, references and windows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from functools import lru_cache

from sqlalchemy import Engine, Row, Select, delete, func, select
from sqlalchemy.orm import Session

from monitor_svc.domain.monitors import Monitor
from monitor_svc.domain.profiles import Reference
from monitor_svc.domain.watermarks import Watermark
from monitor_svc.service.ports import M, WindowState
from monitor_svc.storage import codec
from monitor_svc.storage.sql import upsert
from monitor_svc.storage.tables import idempotency, monitor_references, monitors, windows
from service_kit import idempotency as answers
from service_kit.bell import Bell

#: Rings when a monitor has a reference to follow to.
FOLLOWINGS = Bell()

_LOCK = 0x6D6F6E69  # "moni"


@lru_cache(maxsize=32)
def _decoded_reference(content: bytes) -> Reference:
    return codec.load_reference(content)


class MonitorRows:
    """Implements `MonitorStore` in a session."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def once(
        self,
        method: str,
        request_id: str,
        fingerprint: bytes,
        build: Callable[[], M],
        parse: Callable[[bytes], M],
    ) -> M:
        """Answer a repeated request with its first answer."""
        return answers.once(
            self._session, idempotency, method=method, request_id=request_id,
            fingerprint=fingerprint, build=build, parse=parse,
        )  # fmt: skip

    def lock(self) -> None:
        """Serialize those who change windows, labels or alerts; SQLite does so by itself."""
        if _engine(self._session).dialect.name == "postgresql":
            self._session.execute(select(func.pg_advisory_xact_lock(_LOCK)))

    def monitor(self, monitor_id: str) -> Monitor | None:
        """A monitor by its id."""
        row = self._session.execute(select(monitors).where(monitors.c.id == monitor_id)).first()
        return _monitor(row) if row else None

    def monitors(self, limit: int, after: str) -> list[Monitor]:
        """Monitors by id, behind that one."""
        query = select(monitors).where(monitors.c.id > after).order_by(monitors.c.id)
        return self._monitors(query.limit(limit))

    def monitors_of(self, endpoints: Iterable[str]) -> list[Monitor]:
        """The monitors of some endpoints."""
        return self._monitors(select(monitors).where(monitors.c.endpoint.in_(list(endpoints))))

    def due_followings(self, now: datetime, limit: int) -> list[Monitor]:
        """Monitors whose reference is to follow, and is due to be tried."""
        query = select(monitors).where(monitors.c.following_due <= now)
        return self._monitors(query.order_by(monitors.c.following_due).limit(limit))

    def _monitors(self, query: Select[tuple[object, ...]]) -> list[Monitor]:
        return [_monitor(row) for row in self._session.execute(query)]

    def save_monitor(self, monitor: Monitor) -> None:
        """Insert or replace."""
        early = monitor.mark.early_us or (None, None)
        due = monitor.following.due if monitor.following else None
        values = {
            "id": monitor.id,
            "endpoint": monitor.endpoint,
            "settings": codec.settings_out(monitor),
            "epoch": monitor.epoch,
            "reference_rows": monitor.reference_rows,
            "watermark_us": monitor.mark.time_us,
            "early_rows": monitor.mark.votes,
            "early_from_us": early[0],
            "early_to_us": early[1],
            "created": monitor.created,
            "since_us": monitor.since_us,
            "reference_version": monitor.reference_version,
            "following": codec.following_out(monitor.following),
            "following_due": due,
        }
        upsert(self._session, monitors, [values])
        if due is not None:
            FOLLOWINGS.ring_after(self._session)

    def reference(self, monitor_id: str, epoch: int) -> Reference | None:
        """The reference of an epoch; decoded once per process."""
        table = monitor_references
        content = self._session.scalar(
            select(table.c.content).where(table.c.monitor == monitor_id, table.c.epoch == epoch)
        )
        return None if content is None else _decoded_reference(bytes(content))

    def save_reference(self, monitor_id: str, epoch: int, reference: Reference) -> None:
        """Keep the reference of a new epoch; those before the last one are forgotten."""
        table = monitor_references
        content = codec.dump_reference(reference)
        upsert(self._session, table, [{"monitor": monitor_id, "epoch": epoch, "content": content}])
        self._session.execute(
            delete(table).where(table.c.monitor == monitor_id, table.c.epoch < epoch - 1)
        )

    def windows(self, monitor: Monitor, starts: Sequence[int]) -> dict[int, WindowState]:
        """Windows of the monitor's epoch by their starts, as far as they exist."""
        query = select(windows).where(
            windows.c.monitor == monitor.id,
            windows.c.epoch == monitor.epoch,
            windows.c.start_us.in_(list(starts)),
        )
        return {row.start_us: _window(row) for row in self._session.execute(query)}

    def open_windows(self, monitor_id: str, end_by_us: int | None) -> list[WindowState]:
        """Windows not closed yet that end by then (all if None), oldest first."""
        query = select(windows).where(windows.c.monitor == monitor_id, ~windows.c.closed)
        if end_by_us is not None:
            query = query.where(windows.c.end_us <= end_by_us)
        rows = self._session.execute(query.order_by(windows.c.start_us))
        return [_window(row) for row in rows]

    def judged_windows(self, window: WindowState, limit: int) -> list[WindowState]:
        """Judged windows of the same epoch before one, newest first, without their sketches."""
        query = (
            select(windows)
            .where(
                windows.c.monitor == window.monitor,
                windows.c.epoch == window.epoch,
                windows.c.closed,
                ~windows.c.skipped,
                windows.c.start_us < window.start_us,
            )
            .order_by(windows.c.start_us.desc())
            .limit(limit)
        )
        return [_window(row, with_sketches=False) for row in self._session.execute(query)]

    def closed_windows(self, monitor_id: str, limit: int, before: str) -> list[WindowState]:
        """Closed windows, newest first, behind the position `start:epoch`."""
        query = select(windows).where(windows.c.monitor == monitor_id, windows.c.closed)
        if before:
            start, epoch = (int(part) for part in before.split(":"))
            older = windows.c.start_us < start
            query = query.where(older | ((windows.c.start_us == start) & (windows.c.epoch < epoch)))
        query = query.order_by(windows.c.start_us.desc(), windows.c.epoch.desc()).limit(limit)
        return [_window(row) for row in self._session.execute(query)]

    def save_windows(self, states: Sequence[WindowState]) -> None:
        """Insert or replace."""
        upsert(self._session, windows, [_window_out(state) for state in states])


def _engine(session: Session) -> Engine:
    return session.get_bind().engine


def _monitor(row: Row[tuple[object, ...]]) -> Monitor:
    return Monitor(
        id=row.id, endpoint=row.endpoint, epoch=row.epoch, reference_rows=row.reference_rows,
        mark=_mark(row), created=row.created,
        since_us=row.since_us, reference_version=row.reference_version,
        following=codec.following_in(row.following, row.following_due),
        **codec.settings_in(row.settings),
    )  # fmt: skip


def _mark(row: Row[tuple[object, ...]]) -> Watermark:
    early = None if row.early_from_us is None else (row.early_from_us, row.early_to_us)
    return Watermark(row.watermark_us, row.early_rows, early)


def _window(row: Row[tuple[object, ...]], *, with_sketches: bool = True) -> WindowState:
    sketches = codec.load_sketches(bytes(row.sketches)) if with_sketches else {}
    return WindowState(
        row.monitor, row.epoch, row.start_us, row.end_us, row.row_count,
        sketches, row.closed, row.skipped,
        tuple(codec.finding_in(finding) for finding in row.findings),
    )  # fmt: skip


def _window_out(state: WindowState) -> dict[str, object]:
    return {
        "monitor": state.monitor,
        "epoch": state.epoch,
        "start_us": state.start_us,
        "end_us": state.end_us,
        "row_count": state.row_count,
        "closed": state.closed,
        "skipped": state.skipped,
        "sketches": codec.dump_sketches(state.sketches),
        "findings": [codec.finding_out(finding) for finding in state.findings],
    }
