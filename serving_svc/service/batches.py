"""Use cases about batch predictions, and the durable workflow that carries one out."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol

from service_kit.clock import Clock
from service_kit.errors import DomainError
from service_kit.ids import uuid7_str
from service_kit.paging import Page
from serving_svc.domain import ModelVersion
from serving_svc.domain.batches import (
    ENDED,
    Batch,
    BatchState,
    Progress,
    check_input,
    check_row_key,
    features_of,
    refuse_ended,
)
from serving_svc.service.endpoints import check_model, resolve_version, table_in_force
from serving_svc.service.ports import MessageT, Registry, RequestKey, Store, WorkflowContext

BATCH_WORKFLOW = "serving.batch"
BATCH_QUEUE = "serving.batches"
#: Tries of a step that may fail for a while: a lost child, a cluster that comes back.
PATIENT = 8
SAVE_EVERY_S = 1.0
WAIT_LOOK_S = 0.2

Change = Callable[[Batch], Batch]
Stopped = Callable[[], bool]


class Batches(Protocol):
    """The record."""

    def create(self, key: RequestKey[Batch, MessageT], build: Callable[[], Batch]) -> MessageT: ...

    def change(self, batch_id: str, change: Change) -> Batch: ...

    def change_once(
        self, batch_id: str, change: Change, key: RequestKey[Batch, MessageT]
    ) -> MessageT: ...

    def get(self, batch_id: str) -> Batch: ...

    def page(self, before: str, limit: int) -> Sequence[Batch]: ...

    def under_way(self) -> Sequence[Batch]: ...


class Work(Protocol):
    """What is done; every call may be repeated."""

    def prepare(self, batch: Batch, version: ModelVersion, stopped: Stopped) -> int | None: ...

    def score(
        self,
        batch: Batch,
        version: ModelVersion,
        progress: Callable[[Progress], None],
        stopped: Stopped,
    ) -> bool: ...

    def store(self, batch: Batch) -> dict[str, Any]: ...

    def discard(self, batch: Batch) -> None: ...


class Workflows(Protocol):
    """Runs durable workflows."""

    def start(
        self, name: str, workflow_id: str, given: dict[str, Any], /, *, queue: str = ""
    ) -> None: ...


class BatchContext(WorkflowContext, Protocol):
    """What this workflow may do."""

    def check(self) -> None:
        """End the thread when the process stops; the next one does the step again."""
        ...


class Signatures(Protocol):
    """What must be known of a serialized signature."""

    def __call__(self, signature: bytes) -> tuple[str, tuple[str, ...]]:
        """Name of the feature service, or empty, and names of the outputs."""
        ...


class BatchService:
    """Starts, shows, waits for and stops batch predictions."""

    def __init__(
        self,
        batches: Batches,
        store: Store,
        registry: Registry,
        workflows: Workflows,
        signatures: Signatures,
        clock: Clock,
    ) -> None:
        self._batches = batches
        self._store = store
        self._registry = registry
        self._workflows = workflows
        self._signatures = signatures
        self._clock = clock

    def create(self, asked: Batch, key: RequestKey[Batch, MessageT]) -> MessageT:
        """Start one.

        Raises InvalidArgument for what it asks for, NotFound, FailedPrecondition
        (`NO_TRAFFIC_TABLE`) when the endpoint has no champion yet.
        """
        check_input(asked)
        with self._store.read() as unit:
            endpoint = unit.endpoint(asked.endpoint_id)
            name = asked.model_version or table_in_force(unit, endpoint).champion_version
        version = resolve_version(self._registry, name)
        check_model(endpoint, version)
        feature_service, outputs = self._signatures(version.signature)
        check_row_key(asked.row_key, outputs)
        begun: list[str] = []

        def build() -> Batch:
            batch = replace(
                asked,
                batch_id=uuid7_str(),
                model_version=version.name,
                features=features_of(asked.features, feature_service),
                created=self._clock.now(),
            )
            begun.append(batch.batch_id)
            return batch

        answer = self._batches.create(key, build)
        for batch_id in begun:
            self._start(batch_id)
        return answer

    def get(self, batch_id: str) -> Batch:
        """One; raises NotFound (`BATCH_PREDICTION_NOT_FOUND`)."""
        return self._batches.get(batch_id)

    def page(self, page: Page) -> tuple[list[Batch], str]:
        """Some, newest first, and where the next page begins."""
        found = self._batches.page(page.offset_token, page.size + 1)
        shown = list(found[: page.size])
        return shown, shown[-1].batch_id if len(found) > page.size else ""

    def wait(self, batch_id: str, timeout: float) -> Batch:
        """One as it stands when it has ended, or after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while True:
            batch = self._batches.get(batch_id)
            left = deadline - time.monotonic()
            if batch.state in ENDED or left <= 0:
                return batch
            time.sleep(min(left, WAIT_LOOK_S))

    def cancel(self, batch_id: str, key: RequestKey[Batch, MessageT]) -> MessageT:
        """Stop one.

        Raises NotFound, FailedPrecondition (`BATCH_PREDICTION_ENDED`).
        """

        def change(batch: Batch) -> Batch:
            refuse_ended(batch)
            return replace(batch, state=BatchState.CANCELLED, ended=self._clock.now())

        # The workflow looks at the record by itself, and removes what it has made.
        return self._batches.change_once(batch_id, change, key)

    def resume(self) -> None:
        """Start the workflows of those that were recorded and perhaps not started."""
        for batch in self._batches.under_way():
            self._start(batch.batch_id)

    def _start(self, batch_id: str) -> None:
        given = {"batch_id": batch_id}
        self._workflows.start(BATCH_WORKFLOW, f"batch-{batch_id}", given, queue=BATCH_QUEUE)


class BatchWorkflow:
    """Prepare, score, store: each step is repeated as a whole after a crash, and cheap then."""

    def __init__(self, batches: Batches, registry: Registry, work: Work, clock: Clock) -> None:
        self._batches = batches
        self._registry = registry
        self._work = work
        self._clock = clock

    def run(self, context: BatchContext, given: dict[str, Any]) -> dict[str, Any]:
        """Carry one out; gives the state it ended in."""
        batch_id = given["batch_id"]
        try:
            for name, step in (
                ("prepare", self._prepare),
                ("score", self._score),
                ("store", self._store),
            ):
                if not context.step(name, step, context, batch_id, retries=PATIENT):
                    break
        except DomainError as error:
            self._end(batch_id, state=BatchState.FAILED, reason=f"{error.reason}: {error.message}")
        batch = self._batches.get(batch_id)
        self._work.discard(batch)
        return {"state": str(batch.state)}

    def _prepare(self, context: BatchContext, batch_id: str) -> bool:
        batch = self._save(batch_id, state=BatchState.PREPARING)
        if batch.state in ENDED:
            return False
        version = self._registry.version(batch.model_version)
        rows = self._work.prepare(batch, version, self._stopped(context, batch_id))
        if rows is None:
            return False
        return self._save(batch_id, rows=rows, state=BatchState.RUNNING).state not in ENDED

    def _score(self, context: BatchContext, batch_id: str) -> bool:
        batch = self._batches.get(batch_id)
        if batch.state in ENDED:
            return False
        saved = [0.0]

        def progress(now: Progress) -> None:
            if time.monotonic() - saved[0] > SAVE_EVERY_S:
                self._save(batch_id, done=now.done, refused=now.refused)
                saved[0] = time.monotonic()

        version = self._registry.version(batch.model_version)
        return self._work.score(batch, version, progress, self._stopped(context, batch_id))

    def _store(self, _: BatchContext, batch_id: str) -> bool:
        batch = self._batches.get(batch_id)
        if batch.state in ENDED:
            return False
        self._end(batch_id, state=BatchState.SUCCEEDED, **self._work.store(batch))
        return True

    def _stopped(self, context: BatchContext, batch_id: str) -> Stopped:
        looked = [0.0]

        def stopped() -> bool:
            context.check()
            if time.monotonic() - looked[0] < SAVE_EVERY_S:
                return False
            looked[0] = time.monotonic()
            return self._batches.get(batch_id).state in ENDED

        return stopped

    def _end(self, batch_id: str, **values: Any) -> None:
        self._save(batch_id, ended=self._clock.now(), **values)

    def _save(self, batch_id: str, **values: Any) -> Batch:
        """Change one that has not ended; gives it as it stands."""

        def change(batch: Batch) -> Batch:
            return batch if batch.state in ENDED else replace(batch, **values)

        return self._batches.change(batch_id, change)
