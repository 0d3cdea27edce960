"""Responses to alerts: tried until they are done or given up, never done twice."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta

from monitor_svc.domain.alerts import Action, ActionState, Alert, AlertKind, AlertState
from monitor_svc.domain.monitors import Monitor, Response, Severity
from monitor_svc.domain.performance import (
    LossChange,
    QualitySketch,
    loss_change,
    metrics,
    total_quality,
)
from monitor_svc.service.judgement import Judgement
from monitor_svc.service.ports import Executor, QualityKey, Store, Transactions
from service_kit.clock import Clock
from service_kit.errors import (
    Conflict,
    DeadlineExceeded,
    DomainError,
    ResourceExhausted,
    Unavailable,
)
from service_kit.ids import uuid7_str
from service_kit.periodic import Periodic

#: How long an action belongs to who took it; longer than any call it makes.
LEASE = timedelta(seconds=60)
MOST_TRIES = 12
_LONGEST_PAUSE_S = 300.0
_POLL_S, _CALM_S = 0.5, 5.0
_BATCH = 20
_TRANSIENT = (Unavailable, DeadlineExceeded, Conflict, ResourceExhausted)
#: z-score from which on a greater log loss is no accident.
WORSE_Z = 3.0
_log = logging.getLogger(__name__)


class Responder(Periodic):
    """Executes the pending actions, on a thread of its own.

    An action is claimed with a lease, done outside any transaction and then marked. Who dies in
    between leaves it to be done again with the same `request_id`, by which the other side knows it.
    Who records an action tells it so (`stir`).

    Args:
        transactions: Opens a transaction.
        executors: By response.
        clock: Wall clock; only retries go by it.
    """

    def __init__(
        self, transactions: Transactions, executors: Mapping[Response, Executor], clock: Clock
    ) -> None:
        super().__init__("responder", _POLL_S, calm=_CALM_S)
        self._transactions = transactions
        self._executors = executors
        self._clock = clock

    def work(self) -> bool:
        """Try every action that is due."""
        return self.run_once() == _BATCH

    def run_once(self) -> int:
        """Try every action that is due once; gives their number."""
        now = self._clock.now()
        with self._transactions() as store:
            claimed = store.claim_actions(now, now + LEASE, _BATCH)
        for action in claimed:
            self._try(replace(action, attempts=action.attempts + 1))
        return len(claimed)

    def _try(self, action: Action) -> None:
        with self._transactions() as store:
            alert, monitor = store.alert(action.alert), store.monitor(action.monitor)
        try:
            if alert is None or monitor is None:
                result, state = "the monitor is gone", ActionState.FAILED
            else:
                execute = self._executors[action.policy.response]
                result, state = execute(action, alert, monitor), ActionState.DONE
        except _TRANSIENT as error:
            result, state = error.message, self._retry_or_give_up(action)
        except DomainError as error:
            result, state = f"{error.reason}: {error.message}", ActionState.FAILED
        except Exception as error:
            # Sinks are plugins and may raise anything.
            _log.exception("an action failed")
            result, state = f"failed with {type(error).__name__}", self._retry_or_give_up(action)
        self._mark(action, state, result)

    def _retry_or_give_up(self, action: Action) -> ActionState:
        return ActionState.FAILED if action.attempts >= MOST_TRIES else ActionState.PENDING

    def _mark(self, action: Action, state: ActionState, result: str) -> None:
        now = self._clock.now()
        pause = min(0.5 * 2**action.attempts, _LONGEST_PAUSE_S)
        marked = replace(action, state=state, result=result[:1000], time=now)
        with self._transactions() as store:
            store.save_action(marked, now + timedelta(seconds=pause))


class Evaluation:
    """Evaluates the version that answers on the latest labels; worse quality is an alert."""

    def __init__(self, transactions: Transactions, judgement: Judgement, clock: Clock) -> None:
        self._transactions = transactions
        self._judgement = judgement
        self._clock = clock

    def __call__(self, action: Action, alert: Alert, monitor: Monitor) -> str:
        """Compare the log loss of the last labelled windows with those before them."""
        del alert
        with self._transactions() as store:
            store.lock()
            qualities = store.quality_of(monitor)
            version = _answering(qualities)
            if version is None:
                return "no labels yet"
            lately, before = _split(qualities, version, monitor)
            change = loss_change(before, lately)
            text = _described(version, lately, change)
            if change is not None and change.z >= WORSE_Z:
                self._raise(store, monitor, text, action.event_us)
            elif change is not None:
                _resolve(store, monitor, text)
            return text

    def _raise(self, store: Store, monitor: Monitor, text: str, event_us: int) -> None:
        current = store.active_alert(monitor.id, AlertKind.PERFORMANCE)
        alert = current or Alert(
            uuid7_str(), monitor.id, AlertKind.PERFORMANCE, Severity.CRITICAL, AlertState.OPEN,
            "", (), event_us, self._clock.now(),
        )  # fmt: skip
        self._judgement.raise_alert(store, monitor, replace(alert, summary=text), event_us)


def _resolve(store: Store, monitor: Monitor, text: str) -> None:
    if alert := store.active_alert(monitor.id, AlertKind.PERFORMANCE):
        resolved = replace(alert, state=AlertState.RESOLVED, summary=text)
        store.save_alert(resolved, monitor.endpoint)


def _answering(qualities: Mapping[QualityKey, QualitySketch]) -> str | None:
    labelled = [key for key, sketch in qualities.items() if sketch.binary and not key.shadow]
    if not labelled:
        return None
    newest = max(key.start_us for key in labelled)
    last = [key for key in labelled if key.start_us == newest]
    return max(last, key=lambda key: qualities[key].rows).model_version


def _split(
    qualities: Mapping[QualityKey, QualitySketch], version: str, monitor: Monitor
) -> tuple[QualitySketch, QualitySketch]:
    mine = sorted(
        key
        for key, sketch in qualities.items()
        if key.model_version == version and not key.shadow and sketch.binary
    )
    cut = len(mine) - monitor.persistence_of
    lately = total_quality(qualities[key] for key in mine[max(cut, 0) :])
    return lately, total_quality(qualities[key] for key in mine[: max(cut, 0)])


def _described(version: str, lately: QualitySketch, change: LossChange | None) -> str:
    found = metrics(lately)
    text = f"{version} over {lately.labelled} labelled predictions: log loss "
    text += f"{found['log_loss']:.3f}" if "log_loss" in found else "unknown"
    if "pr_auc" in found:
        text += f", PR-AUC {found['pr_auc']:.3f}"
    if change is None:
        return f"{text}; too few labels before them to compare with"
    verdict = "worse" if change.z >= WORSE_Z else "not worse"
    return f"{text}; {verdict} than before ({change.before:.3f}, z {change.z:.1f})"
