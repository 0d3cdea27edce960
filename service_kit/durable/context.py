"""What a workflow function may do: steps, waits and messages, each recorded once done."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from dbos import DBOS

from service_kit.durable.outcomes import Json, StepFailed, error_from, failure
from service_kit.errors import (
    Conflict,
    DeadlineExceeded,
    DomainError,
    ResourceExhausted,
    Unavailable,
)

T = TypeVar("T")

logger = logging.getLogger(__name__)

MAX_BACKOFF_S = 60.0

PASSING: tuple[type[DomainError], ...] = (
    Conflict,
    DeadlineExceeded,
    ResourceExhausted,
    Unavailable,
)
"""Errors after which the same call may work; every other domain error is final at once."""


class Interrupted(BaseException):
    """Ends the thread of a workflow and leaves its record as it is: to be resumed, or cancelled.

    No Exception, so that neither a workflow nor the engine takes it for a failure.
    """


class Interrupt:
    """Tells a running workflow that it should end: the process stops, or it was cancelled."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        """Ask it to end."""
        self._event.set()

    def is_set(self) -> bool:
        """Whether it was asked to end."""
        return self._event.is_set()

    def check(self) -> None:
        """Raises Interrupted when asked to end."""
        if self._event.is_set():
            raise Interrupted

    def wait(self, seconds: float) -> None:
        """Wait; raises Interrupted as soon as asked to end."""
        # Longer waits than a lock can take are cut in pieces.
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self._event.wait(min(left, 3_600.0))
            self.check()


class WorkflowContext:
    """The engine as a running workflow sees it.

    A workflow function is run again from its start after a restart; what the context recorded
    is not repeated but answered from the record. So whatever is random, slow, outside or depends
    on the time belongs into a step, and the order of the calls must follow from input and answers
    alone.
    """

    def __init__(self, workflow_id: str, interrupt: Interrupt) -> None:
        self.workflow_id = workflow_id
        self._interrupt = interrupt

    def idempotency_key(self, step: str) -> str:
        """The same key whenever this step of this workflow runs, to be a `request_id`."""
        return f"{self.workflow_id}:{step}"

    @property
    def interrupted(self) -> bool:
        """Whether the workflow should end; a long step may look at it and give up early."""
        return self._interrupt.is_set()

    def check(self) -> None:
        """End this thread if the workflow should end; a long step calls it now and then."""
        self._interrupt.check()

    def step(
        self,
        name: str,
        function: Callable[..., T],
        *args: Any,
        retries: int = 3,
        backoff: float = 1.0,
    ) -> T:
        """Run `function(*args)` once and keep its answer; a crash before that runs it again.

        Args:
            name: Name of the step, the same at every run of the workflow.
            function: Its answer must be JSON; tuples come back as lists.
            args: Passed on; they are not recorded.
            retries: Further tries after the first, for errors that may pass.
            backoff: Seconds before the first retry, doubled with each, at most a minute.

        Raises the domain error of the last try, or StepFailed (``STEP_FAILED``) when it was
        another exception, or (``STEP_ANSWER``) when the answer is not JSON.
        """
        self._interrupt.check()
        outcome: Json = DBOS.run_step(
            {"name": name}, lambda: self._attempts(name, function, args, retries, backoff)
        )
        if "failure" in outcome:
            raise error_from(outcome["failure"])
        answer: T = outcome["answer"]
        return answer

    def _attempts(
        self,
        name: str,
        function: Callable[..., object],
        args: tuple[object, ...],
        retries: int,
        backoff: float,
    ) -> Json:
        for attempt in range(retries + 1):
            try:
                return {"answer": _through_json(name, function(*args))}
            except DomainError as error:
                failed = error
                if not isinstance(error, PASSING):
                    break
                logger.warning("step %s failed: %s", name, error.reason)
            except Exception as error:
                logger.warning("step %s failed", name, exc_info=error)
                failed = StepFailed(
                    "STEP_FAILED", f"step {name} failed with {type(error).__name__}"
                )
            if attempt < retries:
                self._interrupt.wait(min(backoff * 2**attempt, MAX_BACKOFF_S))
        return {"failure": failure(failed)}

    def sleep(self, seconds: float) -> None:
        """Wait, also over restarts: what has passed meanwhile counts."""
        until = self.step("sleep", lambda: time.time() + seconds)
        self._interrupt.wait(until - time.time())

    def now(self) -> float:
        """Seconds since the epoch when this point was first reached."""
        return self.step("now", time.time)

    def receive(self, topic: str, timeout: float) -> Json | None:
        """The next message on a topic, or None after `timeout` seconds; restarts do not count."""
        self._interrupt.check()
        message: Json | None = DBOS.recv(topic, timeout_seconds=timeout)
        return message


def _through_json(name: str, value: object) -> object:
    # What the first run sees must be what a later one reads from the record.
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise _not_json(name) from error


def _not_json(name: str) -> DomainError:
    return StepFailed("STEP_ANSWER", f"the answer of step {name} is not JSON")
