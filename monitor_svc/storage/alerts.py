"""Rows of alerts and actions."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Row, Select, select, update
from sqlalchemy.orm import Session

from monitor_svc.domain.alerts import Action, ActionState, Alert, AlertKind, AlertState
from monitor_svc.domain.monitors import Severity
from monitor_svc.events import alert_event
from monitor_svc.storage import codec
from monitor_svc.storage.sql import upsert
from monitor_svc.storage.tables import actions, alerts, outbox
from service_kit.bell import Bell
from service_kit.outbox import publish

#: Rings when an action waits to be done.
ACTIONS = Bell()


class AlertRows:
    """Implements `AlertStore` in a session."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def alert(self, alert_id: str) -> Alert | None:
        """An alert by its id."""
        row = self._session.execute(select(alerts).where(alerts.c.id == alert_id)).first()
        return _alert(row) if row else None

    def active_alert(self, monitor_id: str, kind: AlertKind) -> Alert | None:
        """The alert of that kind that is not resolved; there is one at most."""
        query = select(alerts).where(
            alerts.c.monitor == monitor_id,
            alerts.c.kind == kind.value,
            alerts.c.state != AlertState.RESOLVED.value,
        )
        row = self._session.execute(query).first()
        return _alert(row) if row else None

    def alerts(self, monitor_id: str, limit: int, before: str) -> list[Alert]:
        """Alerts, newest first, behind that id; of all monitors when `monitor_id` is empty."""
        query = select(alerts)
        if monitor_id:
            query = query.where(alerts.c.monitor == monitor_id)
        if before:
            query = query.where(alerts.c.id < before)
        query = query.order_by(alerts.c.id.desc()).limit(limit)
        return [_alert(row) for row in self._session.execute(query)]

    def save_alert(self, alert: Alert, endpoint: str) -> None:
        """Insert or replace, and send the news with this transaction when the state is new."""
        before = self.alert(alert.id)
        upsert(self._session, alerts, [_alert_out(alert)])
        news = (alert.state, alert.severity)
        if before is None or (before.state, before.severity) != news:
            message = alert_event(alert, endpoint)
            publish(self._session, outbox, "alerts", message.alert, message)

    def actions_of(self, alert_ids: Sequence[str]) -> list[Action]:
        """Actions of some alerts, oldest first."""
        return self._actions(select(actions).where(actions.c.alert.in_(list(alert_ids))))

    def actions_of_monitor(self, monitor_id: str) -> list[Action]:
        """All actions of a monitor, oldest first."""
        return self._actions(select(actions).where(actions.c.monitor == monitor_id))

    def _actions(self, query: Select[tuple[object, ...]]) -> list[Action]:
        return [_action(row) for row in self._session.execute(query.order_by(actions.c.id))]

    def save_action(self, action: Action, due: datetime) -> None:
        """Insert or replace; a pending one is tried from `due` on."""
        values = {
            "id": action.id,
            "alert": action.alert,
            "monitor": action.monitor,
            "policy": codec.policy_out(action.policy),
            "request_id": action.request_id,
            "state": action.state.value,
            "event_us": action.event_us,
            "result": action.result,
            "attempts": action.attempts,
            "due": due,
            "time": action.time,
            "why": action.why,
        }
        upsert(self._session, actions, [values])
        if action.state is ActionState.PENDING:
            ACTIONS.ring_after(self._session)

    def claim_actions(self, now: datetime, lease_until: datetime, limit: int) -> list[Action]:
        """Pending actions that are due; nobody else gets them before the lease ends."""
        query = (
            select(actions)
            .where(actions.c.state == ActionState.PENDING.value, actions.c.due <= now)
            .order_by(actions.c.due)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        found = [_action(row) for row in self._session.execute(query)]
        self._session.execute(
            update(actions)
            .where(actions.c.id.in_([action.id for action in found]))
            .values(due=lease_until, attempts=actions.c.attempts + 1)
        )
        return found


def _alert(row: Row[tuple[object, ...]]) -> Alert:
    return Alert(
        row.id, row.monitor, AlertKind(row.kind), Severity(row.severity), AlertState(row.state),
        row.summary, tuple(row.features), row.event_us, row.created, row.calm_windows, row.comment,
    )  # fmt: skip


def _alert_out(alert: Alert) -> dict[str, object]:
    return {
        "id": alert.id,
        "monitor": alert.monitor,
        "kind": alert.kind.value,
        "severity": int(alert.severity),
        "state": alert.state.value,
        "summary": alert.summary,
        "features": list(alert.features),
        "event_us": alert.event_us,
        "created": alert.created,
        "calm_windows": alert.calm_windows,
        "comment": alert.comment,
    }


def _action(row: Row[tuple[object, ...]]) -> Action:
    return Action(
        row.id, row.alert, row.monitor, codec.policy_in(row.policy), row.request_id,
        ActionState(row.state), row.event_us, row.result, row.attempts, row.time, row.why,
    )  # fmt: skip
