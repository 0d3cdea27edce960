"""Trainers fitted in child processes, which speak with Ray for us.

Ray ends a process that has lost its cluster, and a fit in this process would slow the service
down. A child may end; the service goes on and starts another.
"""

from __future__ import annotations

import logging
import multiprocessing
import socket
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service_kit.errors import DeadlineExceeded, FailedPrecondition, Unavailable
from training_svc.domain.pipelines import TrainerSpec
from training_svc.fitting import Task, Trouble
from training_svc.ports import Check
from training_svc.ray_child import serve
from training_svc.trainers import Fitted

START_TIMEOUT = 60.0
FIT_TIMEOUT = 3600.0
PROBE_TIMEOUT = 2.0
LOOK = 0.2
"""Seconds between two looks whether a run should stop."""

MOST_IDLE = 1

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Child:
    """A child that is connected to Ray and does one task at a time."""

    process: BaseProcess
    pipe: Connection

    def end(self) -> None:
        """Ends it, and with it what it had asked Ray to do."""
        self.pipe.close()
        self.process.kill()
        self.process.join(timeout=5.0)


class RayJobs:
    """Fits trainers in Ray workers; without an address, in a child of this process.

    A lost worker or node costs a retry inside Ray, a lost cluster one of the run's step.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._idle: list[Child] = []
        self._lock = threading.Lock()
        self._closed = False

    def warm_up(self) -> None:
        """Has a child connected and a worker with its libraries loaded, for the first run."""
        tiny = np.arange(80, dtype=np.float32).reshape(40, 2)
        labels = np.arange(40.0) % 2
        self.fit(TrainerSpec("lightgbm", {"num_iterations": 1}), tiny, labels, "ab", 0, _go_on)

    def close(self) -> None:
        """Ends the children that have nothing to do; no further ones are kept."""
        with self._lock:
            self._closed, idle = True, self._idle
            self._idle = []
        for child in idle:
            child.end()

    def fit(
        self,
        spec: TrainerSpec,
        inputs: NDArray[np.float32],
        labels: NDArray[np.float64],
        names: Sequence[str],
        seed: int,
        check: Check,
    ) -> Fitted:
        """Fits a trainer on n x inputs rows in a worker that has what it asks for.

        Raises:
            Unavailable: `RAY_UNAVAILABLE`, `WORKER_LOST`.
            FailedPrecondition: `TRAINING_FAILED`, or what the trainer itself refuses.
        """
        task = Task(
            trainer=spec.trainer,
            config=dict(spec.config),
            cpus=spec.cpus,
            gpus=spec.gpus,
            names=list(names),
            seed=seed,
            inputs=inputs,
            labels=labels,
        )
        child = self._take(check)
        try:
            answer = _ask(child, task, check)
        except BaseException:
            child.end()
            raise
        self._give_back(child)
        if isinstance(answer, Trouble):
            kind = Unavailable if answer.passing else FailedPrecondition
            raise kind(answer.reason, answer.message)
        return answer

    def _take(self, check: Check) -> Child:
        with self._lock:
            while self._idle:
                child = self._idle.pop()
                if child.process.is_alive():
                    return child
                child.end()
        return self._start(check)

    def _give_back(self, child: Child) -> None:
        with self._lock:
            if not self._closed and len(self._idle) < MOST_IDLE:
                self._idle.append(child)
                return
        child.end()

    def _start(self, check: Check) -> Child:
        if self._address:
            _probe(self._address)
        ours, theirs = multiprocessing.Pipe()
        process = multiprocessing.get_context("spawn").Process(
            target=serve, args=(theirs, self._address), name="ray-child", daemon=True
        )
        process.start()
        theirs.close()
        child = Child(process, ours)
        try:
            _receive(child, START_TIMEOUT, check)
        except BaseException:
            child.end()
            raise
        return child


def _go_on() -> None:
    """Nothing asks it to stop."""


def _probe(address: str) -> None:
    """Refuses early when nobody listens: Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), PROBE_TIMEOUT).close()
    except OSError as error:
        raise Unavailable("RAY_UNAVAILABLE", "Ray can't be reached") from error


def _ask(child: Child, task: Task, check: Check) -> Fitted | Trouble:
    try:
        child.pipe.send(task)
    except OSError as error:
        raise Unavailable("RAY_UNAVAILABLE", "the connection to Ray was lost") from error
    answer: Fitted | Trouble = _receive(child, FIT_TIMEOUT, check)
    return answer


def _receive(child: Child, timeout: float, check: Check) -> Any:
    waited = 0.0
    while not child.pipe.poll(LOOK):
        check()
        waited += LOOK
        if waited > timeout:
            raise DeadlineExceeded("TRAINING_TIMEOUT", f"took over {timeout:g} s")
    try:
        return child.pipe.recv()
    except (EOFError, OSError) as error:
        raise Unavailable("RAY_UNAVAILABLE", "the connection to Ray was lost") from error
