"""Cron schedules: the floor under retraining."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from croniter import croniter

from service_kit.clock import Clock
from service_kit.errors import DomainError, InvalidArgument
from training_svc.domain.pipelines import Pipeline

logger = logging.getLogger(__name__)

TICK = 5.0
LOOK_BACK = timedelta(hours=1)

Start = Callable[[Pipeline, datetime], None]


def check_schedule(expression: str) -> None:
    """Refuses what is no cron expression of five fields.

    Raises:
        InvalidArgument: Names the field.
    """
    if not expression:
        return
    if len(expression.split()) != 5 or not croniter.is_valid(expression):
        raise InvalidArgument(
            "INVALID_SCHEDULE",
            "must be a cron expression of five fields",
            field="pipeline.schedule",
        )


def due(expression: str, since: datetime, now: datetime) -> datetime | None:
    """The last moment of a schedule after `since` and not after `now`; None when there is none."""
    latest: datetime = croniter(expression, now + timedelta(microseconds=1)).get_prev(datetime)
    return latest.astimezone(UTC) if since < latest <= now else None


class Scheduler:
    """Starts scheduled runs, once a moment however many processes look.

    A moment that passed while the service was down is made up for when it is less than an hour
    old; the idempotency key of a start is pipeline and moment.
    """

    def __init__(self, clock: Clock, pipelines: Callable[[], list[Pipeline]], start: Start) -> None:
        self._clock = clock
        self._pipelines = pipelines
        self._start = start
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="scheduler", daemon=True)

    def start(self) -> None:
        """Begins to look."""
        self._thread.start()

    def stop(self) -> None:
        """Ends."""
        self._stopping.set()
        self._thread.join(timeout=TICK)

    def look(self, since: datetime, now: datetime) -> None:
        """Starts what is due."""
        for pipeline in self._pipelines():
            if not pipeline.schedule:
                continue
            moment = due(pipeline.schedule, max(since, pipeline.create_time), now)
            if moment is not None:
                self._start(pipeline, moment)

    def _run(self) -> None:
        since = self._clock.now() - LOOK_BACK
        while not self._stopping.wait(TICK):
            now = self._clock.now()
            try:
                self.look(since, now)
                since = now
            except DomainError as error:
                logger.warning("the schedule waits", extra={"reason": error.reason})
