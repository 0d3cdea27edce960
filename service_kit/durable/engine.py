"""Durable workflows on DBOS, whose one instance for each process is hidden here."""

from __future__ import annotations

import contextvars
import logging
import threading
import time
from collections.abc import Callable
from enum import StrEnum
from typing import Any, NoReturn, TypeVar

from dbos import (
    DBOS,
    DBOSConfig,
    DBOSPortableJSONSerializer,
    PortableWorkflowError,
    SetWorkflowID,
    WorkflowStatus,
)
from dbos import error as dbos_errors

from service_kit.database import make_engine
from service_kit.durable.context import Interrupt, Interrupted, WorkflowContext
from service_kit.durable.outcomes import Json, StepFailed, WorkflowFailed, error_from
from service_kit.durable.pace import Pace
from service_kit.errors import DomainError, FailedPrecondition, NotFound

WorkflowFunction = Callable[[WorkflowContext, Json], Json]
F = TypeVar("F", bound=WorkflowFunction)
T = TypeVar("T")

QUEUE_POLL_S = 1.0
MESSAGE_POLL_S = 1.0
SCHEDULE_POLL_S = 3_600.0
POOL_SIZE = 8
WAIT_POLL_S = 0.05

logger = logging.getLogger(__name__)


class WorkflowState(StrEnum):
    """Where a workflow stands."""

    ENQUEUED = "ENQUEUED"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


_STATES = {
    "PENDING": WorkflowState.RUNNING,
    "ENQUEUED": WorkflowState.ENQUEUED,
    "DELAYED": WorkflowState.ENQUEUED,
    "SUCCESS": WorkflowState.SUCCEEDED,
    "ERROR": WorkflowState.FAILED,
    "MAX_RECOVERY_ATTEMPTS_EXCEEDED": WorkflowState.FAILED,
    "CANCELLED": WorkflowState.CANCELLED,
}


class DurableEngine:
    """Runs registered workflows and resumes at launch what an earlier process left unfinished.

    One engine can be launched in a process at a time. It listens on no port.

    Args:
        url: Database of the records, ``sqlite:///…`` (a file of its own) or ``postgresql+…``
            (tables in the schema ``{app_name}_durable``).
        app_name: Lower-case name of the service, at least three characters.
        application_version: Only workflows of this version are resumed; raise it together with
            a change of a workflow's steps once none of the old ones is under way.
        executor_id: Names this process among several on one database; each resumes its own.
    """

    _launched: DurableEngine | None = None

    def __init__(
        self, url: str, app_name: str, application_version: str, *, executor_id: str = "local"
    ) -> None:
        self._url = url
        self._app_name = app_name
        self._version = application_version
        self._executor_id = executor_id
        self._functions: dict[str, WorkflowFunction] = {}
        self._workflows: dict[str, Callable[[Json], Json]] = {}
        self._queues: dict[str, int] = {}
        self._running: dict[str, Interrupt] = {}
        self._pace = Pace(lambda: bool(self._running))
        self._dbos: Any = None
        self._lock = threading.Lock()
        self._stopping = False

    def workflow(self, name: str) -> Callable[[F], F]:
        """Register a workflow function under a name that must never change."""

        def register(function: F) -> F:
            if name in self._functions:
                raise ValueError(f"workflow {name} is registered already")
            self._functions[name] = function
            return function

        return register

    def queue(self, name: str, concurrency: int) -> None:
        """Declare a queue of which at most `concurrency` workflows run at once."""
        self._queues[name] = concurrency

    def launch(self) -> None:
        """Open the database, migrate it, and resume what is pending.

        Raises RuntimeError when the process has launched an engine already.
        """
        if DurableEngine._launched is not None:
            raise RuntimeError("a process can launch one durable engine only")
        _use_our_logging()
        if self._url.startswith("sqlite"):
            _enter_wal(self._url)
        self._dbos = DBOS(config=self._config())
        DurableEngine._launched = self
        self._stopping = False
        for name, function in self._functions.items():
            self._workflows[name] = DBOS.workflow(name=name)(self._wrapped(function))
        try:
            with self._pace.of(self._dbos):
                DBOS.launch()
            for name, concurrency in self._queues.items():
                DBOS.register_queue(
                    name,
                    global_concurrency=concurrency,
                    polling_interval_sec=QUEUE_POLL_S,
                    on_conflict="always_update",
                )
            self._pace.stir()
        except BaseException:
            self.shutdown()
            raise

    def shutdown(self) -> None:
        """End every workflow at its next wait or step; the next launch resumes them."""
        if DurableEngine._launched is not self:
            return
        self._stopping = True
        with self._lock:
            for interrupt in self._running.values():
                interrupt.set()
        self._interrupt_receivers()
        DBOS.destroy(destroy_registry=True)
        DurableEngine._launched = None

    def start(self, name: str, workflow_id: str, input: Json, *, queue: str = "") -> None:  # noqa: A002
        """Start a workflow unless one of that id exists; returns as soon as it is recorded.

        Raises NotFound (``WORKFLOW_UNKNOWN``) for a name or queue that is not registered.
        """
        function = self._workflows.get(name)
        if function is None or (queue and queue not in self._queues):
            raise NotFound("WORKFLOW_UNKNOWN", "no such workflow or queue is registered")

        def begin() -> None:
            with SetWorkflowID(workflow_id):
                if queue:
                    DBOS.enqueue_workflow(queue, function, input)
                else:
                    DBOS.start_workflow(function, input)

        _outside(begin)
        self._pace.stir()

    def send(self, workflow_id: str, topic: str, payload: Json, *, key: str = "") -> None:
        """Send a message to a workflow; messages with one `key` are one message.

        Raises NotFound (``WORKFLOW_NOT_FOUND``).
        """
        try:
            _outside(
                lambda: DBOS.send(workflow_id, payload, topic=topic, idempotency_key=key or None)
            )
        except dbos_errors.DBOSNonExistentWorkflowError as error:
            raise _not_found() from error
        self._wake_receivers(workflow_id)

    def status(self, workflow_id: str) -> WorkflowState:
        """Where the workflow stands; raises NotFound (``WORKFLOW_NOT_FOUND``)."""
        return _STATES[self._find(workflow_id).status]

    def result(self, workflow_id: str) -> Json | None:
        """The answer of a workflow that has succeeded, None while it has not.

        Raises the domain error with which it failed, and NotFound (``WORKFLOW_NOT_FOUND``).
        """
        found = self._find(workflow_id)
        if _STATES[found.status] is WorkflowState.FAILED:
            raise _error_of(found)
        answer: Json | None = found.output
        return answer

    def wait(self, workflow_id: str, timeout: float) -> WorkflowState:
        """The state once the workflow has ended, or after `timeout` seconds the present one."""
        deadline = time.monotonic() + timeout
        while True:
            state = self.status(workflow_id)
            ended = state not in (WorkflowState.RUNNING, WorkflowState.ENQUEUED)
            if ended or time.monotonic() > deadline:
                return state
            time.sleep(WAIT_POLL_S)

    def cancel(self, workflow_id: str) -> None:
        """End a workflow at its next wait or step; nothing happens to one that has ended."""
        self._find(workflow_id)
        _outside(lambda: DBOS.cancel_workflow(workflow_id))
        with self._lock:
            if interrupt := self._running.get(workflow_id):
                interrupt.set()
        self._wake_receivers(workflow_id)

    def resume(self, workflow_id: str, *, queue: str = "") -> None:
        """Go on with a cancelled workflow after its last recorded step.

        Raises FailedPrecondition (``WORKFLOW_ENDED``) when it has succeeded or failed.
        """
        found = self._find(workflow_id)
        if found.status in ("SUCCESS", "ERROR"):
            raise FailedPrecondition("WORKFLOW_ENDED", "the workflow has ended")
        if found.status in ("CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED"):
            _outside(lambda: DBOS.resume_workflow(workflow_id, queue_name=queue or None))
            self._pace.stir()

    @property
    def background(self) -> EngineBackground:
        """The engine as background work of a service: `start` launches it, `stop` shuts down."""
        return EngineBackground(self)

    def ping(self) -> None:
        """Raises FailedPrecondition unless the engine is launched and its database answers."""
        if DurableEngine._launched is not self:
            raise FailedPrecondition("ENGINE_STOPPED", "the durable engine is not launched")
        _outside(lambda: DBOS.get_workflow_status(""))

    def _config(self) -> DBOSConfig:
        return DBOSConfig(
            name=self._app_name,
            system_database_url=self._url,
            dbos_system_schema=f"{self._app_name.replace('-', '_')}_durable",
            application_version=self._version,
            executor_id=self._executor_id,
            serializer=DBOSPortableJSONSerializer(),
            sys_db_pool_size=POOL_SIZE,
            log_level="WARNING",
            enable_otlp=False,
            scheduler_polling_interval_sec=SCHEDULE_POLL_S,
            notification_listener_polling_interval_sec=MESSAGE_POLL_S,
        )

    def _wrapped(self, function: WorkflowFunction) -> Callable[[Json], Json]:
        def run(values: Json) -> Json:
            workflow_id = str(DBOS.workflow_id)
            interrupt = self._began(workflow_id)
            try:
                return function(WorkflowContext(workflow_id, interrupt), values)
            except DomainError as error:
                raise WorkflowFailed(error) from error
            finally:
                self._ended(workflow_id, interrupt)

        return run

    def _began(self, workflow_id: str) -> Interrupt:
        interrupt = Interrupt()
        with self._lock:
            self._running[workflow_id] = interrupt
            if self._stopping:
                interrupt.set()
        return interrupt

    def _ended(self, workflow_id: str, interrupt: Interrupt) -> None:
        with self._lock:
            if self._running.get(workflow_id) is interrupt:
                del self._running[workflow_id]
        self._pace.stir()

    def _find(self, workflow_id: str) -> WorkflowStatus:
        found = _outside(lambda: DBOS.get_workflow_status(workflow_id))
        if found is None:
            raise _not_found()
        return found

    def _wake_receivers(self, workflow_id: str | None = None) -> None:
        # DBOS cannot be asked to wake one; it would notice at its next look at the database.
        database = self._dbos._sys_db  # noqa: SLF001
        for _, (receiver, *_), waiting in database.notifications_map.snapshot():
            if workflow_id in (None, receiver):
                waiting.set()

    def _interrupt_receivers(self) -> None:
        # Nor does DBOS end one that waits, and its thread would keep the process from ending.
        database = self._dbos._sys_db_field  # noqa: SLF001
        if database is not None:
            database.recv_check = database.recv_consume = _interrupted
            self._wake_receivers()


class EngineBackground:
    """Adapts an engine to what a service starts and stops."""

    def __init__(self, engine: DurableEngine) -> None:
        self._engine = engine

    def start(self) -> None:
        """Launch."""
        self._engine.launch()

    def stop(self) -> None:
        """Shut down."""
        self._engine.shutdown()


def _outside(call: Callable[[], T]) -> T:
    # Called from within a step, DBOS would record the call as one of the workflow's own.
    return contextvars.Context().run(call)


def _not_found() -> NotFound:
    return NotFound("WORKFLOW_NOT_FOUND", "no workflow has that id")


def _error_of(found: WorkflowStatus) -> DomainError:
    error = found.error
    if isinstance(error, PortableWorkflowError) and isinstance(error.data, dict):
        return error_from(error.data)
    return StepFailed("WORKFLOW_FAILED", "the workflow failed outside its steps")


def _interrupted(*_: object) -> NoReturn:
    raise Interrupted


def _use_our_logging() -> None:
    """Send DBOS's log to the root logger, without what this adapter reports itself."""
    log = logging.getLogger("dbos")
    if not any(isinstance(handler, logging.NullHandler) for handler in log.handlers):
        # A logger that has a handler is left alone by DBOS.
        log.addHandler(logging.NullHandler())
        log.addFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    return not (record.exc_info and isinstance(record.exc_info[1], WorkflowFailed))


def _enter_wal(url: str) -> None:
    engine = make_engine(url)
    engine.connect().close()
    engine.dispose()
