"""Transactions on the record of serving."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import cast

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from modelyard.events.v1 import events_pb2
from sqlalchemy import Engine, delete, select, update
from sqlalchemy.orm import Session

from service_kit.clock import Clock
from service_kit.database import reading, transaction
from service_kit.errors import AlreadyExists, NotFound
from service_kit.idempotency import once
from service_kit.outbox import publish
from serving_svc.domain import Deployment, Endpoint, Rollout, RolloutEvent, TrafficTable
from serving_svc.service.ports import AnswerT, MessageT, RequestKey
from serving_svc.storage import rows
from serving_svc.storage.tables import (
    IDEMPOTENCY,
    OUTBOX,
    DeploymentRow,
    EndpointRow,
    RolloutEventRow,
    RolloutRow,
    StreamScorerRow,
    TableRow,
)

CHANGES = "changes"


class SqlStore:
    """Opens units of work on a database."""

    def __init__(self, engine: Engine, clock: Clock) -> None:
        self._engine = engine
        self._clock = clock

    @contextmanager
    def write(self) -> Iterator[SqlUnit]:
        """A unit that is committed at its end, or not at all when the block raises."""
        with transaction(self._engine) as session:
            yield SqlUnit(session, self._clock, locking=True)

    @contextmanager
    def read(self) -> Iterator[SqlUnit]:
        """A unit that sees one consistent state and can't write."""
        with reading(self._engine) as session:
            yield SqlUnit(session, self._clock, locking=False)


class SqlUnit:
    """One transaction.

    Who changes anything of an endpoint reads the endpoint first, which locks it: changes of one
    endpoint come one after the other.
    """

    def __init__(self, session: Session, clock: Clock, *, locking: bool) -> None:
        self._session = session
        self._clock = clock
        self._locking = locking

    def once(self, key: RequestKey[AnswerT, MessageT], build: Callable[[], AnswerT]) -> MessageT:
        """Build the first time that a key is seen, and give its answer ever after."""
        answer = once(
            self._session,
            IDEMPOTENCY,
            method=key.method,
            request_id=key.request_id,
            fingerprint=key.fingerprint,
            build=lambda: cast("Message", key.encode(build())),
            parse=lambda kept: cast("Message", key.parse(kept)),
        )
        return cast("MessageT", answer)

    def announce(self, resource: str, action: str, actor: str, reason: str) -> None:
        """Tell the stream of changes, when this unit is committed."""
        moment = Timestamp()
        moment.FromDatetime(self._clock.now())
        change = events_pb2.ChangeEvent(
            resource=resource, action=action, actor=actor, reason=reason, change_time=moment
        )
        publish(self._session, OUTBOX, CHANGES, resource, change)

    def endpoint(self, endpoint_id: str) -> Endpoint:
        """An endpoint; raises NotFound (`ENDPOINT_NOT_FOUND`)."""
        query = select(EndpointRow).where(EndpointRow.endpoint_id == endpoint_id)
        if self._locking:
            query = query.with_for_update().execution_options(populate_existing=True)
        row = self._session.scalar(query)
        if row is None:
            raise NotFound("ENDPOINT_NOT_FOUND", "there is no such endpoint", field="name")
        return rows.endpoint_of(row)

    def endpoints(self, after: str = "", limit: int | None = None) -> Sequence[Endpoint]:
        """Endpoints in the order of their ids."""
        query = select(EndpointRow).where(EndpointRow.endpoint_id > after)
        ordered = query.order_by(EndpointRow.endpoint_id).limit(limit)
        return [rows.endpoint_of(row) for row in self._session.scalars(ordered)]

    def add_endpoint(self, endpoint: Endpoint) -> None:
        """Put a new endpoint on record; raises AlreadyExists (`ENDPOINT_EXISTS`)."""
        if self._session.get(EndpointRow, endpoint.endpoint_id) is not None:
            raise AlreadyExists(
                "ENDPOINT_EXISTS", "an endpoint of that id exists", field="endpoint_id"
            )
        self._session.add(EndpointRow(**rows.endpoint_values(endpoint)))
        self._session.flush()

    def save_endpoint(self, endpoint: Endpoint) -> None:
        """Change an endpoint."""
        self._session.merge(EndpointRow(**rows.endpoint_values(endpoint)))
        self._session.flush()

    def delete_endpoint(self, endpoint_id: str) -> None:
        """Take an endpoint, its tables, rollouts and stream scorers off the record."""
        scorers = update(StreamScorerRow).where(StreamScorerRow.endpoint_id == endpoint_id)
        self._session.execute(scorers.values(deleted=True))
        self._session.execute(delete(EndpointRow).where(EndpointRow.endpoint_id == endpoint_id))

    def table(self, endpoint_id: str, generation: int) -> TrafficTable | None:
        """One generation of an endpoint's traffic."""
        row = self._session.get(TableRow, (endpoint_id, generation))
        return None if row is None else rows.table_of(row)

    def tables(self, endpoint_id: str, before: int, limit: int) -> Sequence[TrafficTable]:
        """Generations below `before`, newest first."""
        query = (
            select(TableRow)
            .where(TableRow.endpoint_id == endpoint_id, TableRow.generation < before)
            .order_by(TableRow.generation.desc())
            .limit(limit)
        )
        return [rows.table_of(row) for row in self._session.scalars(query)]

    def add_table(self, endpoint: Endpoint, table: TrafficTable) -> Endpoint:
        """Put a table into force; gives the endpoint as it is then."""
        values = rows.table_values(table)
        self._session.add(TableRow(endpoint_id=endpoint.endpoint_id, **values))
        changed = replace(endpoint, generation=table.generation)
        self.save_endpoint(changed)
        return changed

    def deployments(self, endpoint_id: str = "") -> Sequence[Deployment]:
        """Deployments of one endpoint, or of all."""
        query = select(DeploymentRow).order_by(DeploymentRow.app)
        if endpoint_id:
            query = query.where(DeploymentRow.endpoint_id == endpoint_id)
        return [rows.deployment_of(row) for row in self._session.scalars(query)]

    def save_deployment(self, deployment: Deployment) -> None:
        """Put a deployment on record, or change it."""
        self._session.merge(DeploymentRow(**rows.deployment_values(deployment)))
        self._session.flush()

    def delete_deployment(self, deployment: Deployment) -> None:
        """Take a deployment off the record."""
        self._session.execute(delete(DeploymentRow).where(DeploymentRow.app == deployment.app))

    def rollout(self, endpoint_id: str, rollout_id: str) -> Rollout:
        """A rollout with its events; raises NotFound (`ROLLOUT_NOT_FOUND`)."""
        row = self._session.get(RolloutRow, rollout_id)
        if row is None or row.endpoint_id != endpoint_id:
            raise NotFound("ROLLOUT_NOT_FOUND", "there is no such rollout", field="name")
        return rows.rollout_of(row, self._events([rollout_id]).get(rollout_id, []))

    def rollouts(self, endpoint_id: str, before: str, limit: int) -> Sequence[Rollout]:
        """Rollouts of an endpoint older than `before`, newest first, with their events."""
        query = select(RolloutRow).where(RolloutRow.endpoint_id == endpoint_id)
        if before:
            query = query.where(RolloutRow.rollout_id < before)
        ordered = query.order_by(RolloutRow.rollout_id.desc()).limit(limit)
        found = self._session.scalars(ordered).all()
        events = self._events([row.rollout_id for row in found])
        return [rows.rollout_of(row, events.get(row.rollout_id, [])) for row in found]

    def active_rollouts(self, endpoint_id: str = "") -> Sequence[Rollout]:
        """Rollouts that have not ended, of one endpoint or of all, without their events."""
        query = select(RolloutRow).where(RolloutRow.ended.is_(None))
        if endpoint_id:
            query = query.where(RolloutRow.endpoint_id == endpoint_id)
        return [rows.rollout_of(row) for row in self._session.scalars(query)]

    def add_rollout(self, rollout: Rollout) -> None:
        """Put a new rollout on record."""
        self._session.add(RolloutRow(**rows.rollout_values(rollout)))
        self._session.flush()

    def save_rollout(self, rollout: Rollout, event: RolloutEvent | None = None) -> None:
        """Change a rollout and add what happened."""
        self._session.merge(RolloutRow(**rows.rollout_values(rollout)))
        if event is not None:
            self._session.add(RolloutEventRow(**rows.event_values(rollout.rollout_id, event)))
        self._session.flush()

    def _events(self, rollout_ids: Sequence[str]) -> dict[str, list[RolloutEventRow]]:
        query = (
            select(RolloutEventRow)
            .where(RolloutEventRow.rollout_id.in_(rollout_ids))
            .order_by(RolloutEventRow.position)
        )
        found: dict[str, list[RolloutEventRow]] = {}
        for row in self._session.scalars(query):
            found.setdefault(row.rollout_id, []).append(row)
        return found
