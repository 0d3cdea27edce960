"""Cron schedules: the floor under retraining."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from croniter import croniter

from service_kit.clock import Clock
from service_kit.errors import DomainError, InvalidArgument, Unavailable
from service_kit.periodic import Periodic
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


class Scheduler(Periodic):
    """Starts scheduled runs, once a moment however many processes look.

    A moment that passed while the service was down is made up for when it is less than an hour
    old; the idempotency key of a start is pipeline and moment.

    Args:
        clock: Tells the time.
        pipelines: Those with a schedule.
        start: Starts the run of a moment unless it was started before.
    """

    def __init__(self, clock: Clock, pipelines: Callable[[], list[Pipeline]], start: Start) -> None:
        super().__init__("scheduler", TICK, at_once=False)
        self._clock = clock
        self._pipelines = pipelines
        self._start = start
        self._started: dict[str, datetime] = {}

    def work(self) -> bool:
        """Starts what is due."""
        self.look()
        return False

    def look(self) -> None:
        """Starts what is due; what can't be started now is tried again at the next look."""
        now = self._clock.now()
        for pipeline in self._pipelines():
            since = max(now - LOOK_BACK, pipeline.update_time)
            moment = due(pipeline.schedule, since, now)
            if moment is None or self._started.get(pipeline.id) == moment:
                continue
            try:
                self._start(pipeline, moment)
            except Unavailable as error:
                logger.warning("a scheduled run waits", extra={"reason": error.reason})
                continue
            except DomainError as error:
                logger.warning("a scheduled run is refused", extra={"reason": error.reason})
            self._started[pipeline.id] = moment
