"""Keeps the replicas that run equal to those that are wanted."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import replace

from service_kit.errors import DomainError
from serving_svc.domain import AppState, Deployment, deployments
from serving_svc.service.ports import Control, Store

BUSY_S = 0.5
#: Who changes the record wakes us, and so does Ray when it has come again.
IDLE_S = 30.0
_log = logging.getLogger(__name__)


class Reconciler:
    """Starts what is wanted and does not run, stops what runs and is not wanted."""

    def __init__(self, store: Store, control: Control) -> None:
        self._store = store
        self._control = control
        self._wakeup = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin, on a thread of its own."""
        self._thread = threading.Thread(target=self._run, name="reconciler", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End after what is under way; replicas go on."""
        self._stopping.set()
        self._wakeup.set()
        if self._thread is not None:
            self._thread.join(timeout=1.0)

    def notify(self) -> None:
        """Say that the record changed."""
        self._wakeup.set()

    def reconcile_once(self) -> bool:
        """Take one step; whether another look is needed soon.

        Raises Unavailable when Ray does not answer.
        """
        with self._store.read() as unit:
            wanted = unit.deployments()
            endpoints = {each.endpoint_id for each in unit.endpoints()}
        if not wanted:
            return False
        running = self._control.status()
        todo = deployments.plan(wanted, running)
        for each in todo.start:
            self._control.apply(each)
        for each in todo.scale:
            self._control.scale(each.app, each.replicas)
        for each in todo.stop:
            if running[each.app].state is not AppState.STOPPING:
                self._control.remove(each.app)
        # The versions of an endpoint stay on record, for one may go back to them.
        forget = [each for each in todo.forget if each.endpoint_id not in endpoints]
        self._write_down(forget, todo.failed)
        starting = any(status.state is AppState.STARTING for status in running.values())
        return bool(todo.start or todo.scale or todo.stop or starting)

    def _write_down(
        self, forget: Sequence[Deployment], failed: Sequence[tuple[Deployment, str]]
    ) -> None:
        if not forget and not failed:
            return
        with self._store.write() as unit:
            present = {each.app: each for each in unit.deployments()}
            for each in forget:
                # Somebody may want it again by now.
                if (now := present.get(each.app)) is not None and not now.wanted:
                    unit.delete_deployment(each)
            for each, why in failed:
                if each.app in present:
                    unit.save_deployment(replace(present[each.app], failure=_short(why)))

    def _run(self) -> None:
        pause, well = 0.0, True
        while not self._stopping.is_set():
            self._wakeup.wait(pause)
            self._wakeup.clear()
            if self._stopping.is_set():
                return
            try:
                pause = BUSY_S if self.reconcile_once() else IDLE_S
                well = True
            except DomainError as error:
                level = logging.WARNING if well else logging.DEBUG
                _log.log(level, "replicas can't be looked after", extra={"reason": error.reason})
                pause, well = BUSY_S, False
            except Exception:
                _log.exception("the reconciler stumbled")
                pause = 5.0


def _short(message: str) -> str:
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return f"the replicas can't start: {lines[-1][:500]}" if lines else "the replicas can't start"
