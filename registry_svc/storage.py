"""The registry's tables and the repository over them."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy import Engine, ForeignKeyConstraint, String, Text, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from registry_svc.documents import from_document, to_document
from registry_svc.domain import Artifact, AuditEvent, Model, ModelVersion, Stage
from service_kit.database import BigKey, JsonColumn, UtcDateTime, make_metadata, reading
from service_kit.idempotency import idempotency_table
from service_kit.outbox import outbox_table, publish


class Base(DeclarativeBase):
    """Declarative base of the registry."""

    metadata = make_metadata()


class ModelRow(Base):
    """A model."""

    __tablename__ = "models"

    id: Mapped[str] = mapped_column(String(63), primary_key=True)
    description: Mapped[str] = mapped_column(Text)
    owner: Mapped[str] = mapped_column(Text)
    tags: Mapped[dict[str, str]] = mapped_column(JsonColumn)
    requires_approval: Mapped[bool]
    create_time: Mapped[datetime] = mapped_column(UtcDateTime)
    update_time: Mapped[datetime] = mapped_column(UtcDateTime)
    version_count: Mapped[int]


class VersionRow(Base):
    """A version: what never changes is one document."""

    __tablename__ = "model_versions"
    __table_args__ = (ForeignKeyConstraint(["model"], ["models.id"]),)

    model: Mapped[str] = mapped_column(String(63), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    stage: Mapped[str] = mapped_column(String(16))
    document: Mapped[dict[str, Any]] = mapped_column(JsonColumn)


class AliasRow(Base):
    """An alias of a version."""

    __tablename__ = "model_aliases"
    __table_args__ = (
        ForeignKeyConstraint(
            ["model", "number"], ["model_versions.model", "model_versions.number"]
        ),
    )

    model: Mapped[str] = mapped_column(String(63), primary_key=True)
    alias: Mapped[str] = mapped_column(String(63), primary_key=True)
    number: Mapped[int]


class ArtifactRow(Base):
    """An artifact whose content is stored."""

    __tablename__ = "artifacts"

    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    size_bytes: Mapped[int] = mapped_column(BigKey)
    create_time: Mapped[datetime] = mapped_column(UtcDateTime)


class AuditRow(Base):
    """Who changed what. Rows are only ever added."""

    __tablename__ = "audit_events"

    id: Mapped[int] = mapped_column(BigKey, primary_key=True, autoincrement=True)
    resource: Mapped[str] = mapped_column(String(256), index=True)
    action: Mapped[str] = mapped_column(String(100))
    actor: Mapped[str] = mapped_column(String(200))
    reason: Mapped[str] = mapped_column(Text)
    event_time: Mapped[datetime] = mapped_column(UtcDateTime)


idempotency = idempotency_table(Base)
outbox = outbox_table(Base)


class SqlRecords:
    """The registry's records within one transaction."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def model(self, model_id: str) -> Model | None:
        """Gets a model with its aliases."""
        row = self._session.get(ModelRow, model_id)
        return None if row is None else _model(row, self._aliases(model_id))

    def models(self, after: str, limit: int) -> list[Model]:
        """Lists models by id."""
        query = select(ModelRow).where(ModelRow.id > after).order_by(ModelRow.id).limit(limit)
        return [_model(row, self._aliases(row.id)) for row in self._session.scalars(query)]

    def save_model(self, model: Model) -> None:
        """Creates or changes a model; its aliases and versions are kept apart."""
        row = self._session.get(ModelRow, model.id) or ModelRow(id=model.id, version_count=0)
        row.description, row.owner = model.description, model.owner
        row.tags, row.requires_approval = dict(model.tags), model.requires_approval
        row.create_time, row.update_time = model.create_time, model.update_time
        self._session.add(row)
        self._session.flush()

    def version(self, model_id: str, number: int) -> ModelVersion | None:
        """Gets a version."""
        row = self._session.get(VersionRow, (model_id, number))
        return None if row is None else self._version(row)

    def versions(self, model_id: str, below: int | None, limit: int) -> list[ModelVersion]:
        """Lists versions, newest first, with numbers below a bound."""
        query = select(VersionRow).where(VersionRow.model == model_id)
        if below is not None:
            query = query.where(VersionRow.number < below)
        rows = self._session.scalars(query.order_by(VersionRow.number.desc()).limit(limit))
        return [self._version(row) for row in rows]

    def add_version(self, version: ModelVersion) -> ModelVersion:
        """Adds a version under the next number of its model."""
        model = self._session.get_one(ModelRow, version.model, with_for_update=True)
        model.version_count += 1
        model.update_time = version.create_time
        numbered = replace(version, number=model.version_count)
        self._session.add(
            VersionRow(
                model=numbered.model,
                number=numbered.number,
                stage=numbered.stage,
                document=to_document(numbered),
            )
        )
        self._session.flush()
        return numbered

    def save_version(self, version: ModelVersion) -> None:
        """Stores a version's stage and reviews."""
        row = self._session.get_one(VersionRow, (version.model, version.number))
        row.stage, row.document = version.stage, to_document(version)
        self._session.flush()

    def set_alias(self, model_id: str, alias: str, number: int) -> None:
        """Points an alias at a version."""
        self._session.merge(AliasRow(model=model_id, alias=alias, number=number))
        self._session.flush()

    def delete_alias(self, model_id: str, alias: str) -> bool:
        """Takes an alias away; False when there was none."""
        row = self._session.get(AliasRow, (model_id, alias))
        if row is None:
            return False
        self._session.delete(row)
        self._session.flush()
        return True

    def artifact(self, sha256: str) -> Artifact | None:
        """Gets what is known of an artifact."""
        row = self._session.get(ArtifactRow, sha256)
        return None if row is None else Artifact(row.sha256, row.size_bytes, row.create_time)

    def save_artifact(self, artifact: Artifact) -> None:
        """Makes an artifact known."""
        self._session.add(
            ArtifactRow(
                sha256=artifact.sha256,
                size_bytes=artifact.size_bytes,
                create_time=artifact.create_time,
            )
        )
        self._session.flush()

    def record(self, event: AuditEvent) -> None:
        """Writes an audit event, and the same on the stream `changes`."""
        from modelyard.events.v1 import events_pb2

        self._session.add(
            AuditRow(
                resource=event.resource,
                action=event.action,
                actor=event.actor,
                reason=event.reason,
                event_time=event.event_time,
            )
        )
        change = events_pb2.ChangeEvent(
            resource=event.resource, action=event.action, actor=event.actor, reason=event.reason
        )
        change.change_time.FromDatetime(event.event_time)
        publish(self._session, outbox, "changes", event.resource, change)

    def audit(self, resource: str, below: int | None, limit: int) -> list[tuple[int, AuditEvent]]:
        """Lists audit events of a resource and what is below it, newest first, with their ids."""
        query = select(AuditRow)
        if resource:
            below_it = AuditRow.resource.startswith(f"{resource}/", autoescape=True)
            query = query.where((AuditRow.resource == resource) | below_it)
        if below is not None:
            query = query.where(AuditRow.id < below)
        rows = self._session.scalars(query.order_by(AuditRow.id.desc()).limit(limit))
        return [(row.id, _audit_event(row)) for row in rows]

    def _aliases(self, model_id: str) -> dict[str, int]:
        query = select(AliasRow.alias, AliasRow.number).where(AliasRow.model == model_id)
        return {row.alias: row.number for row in self._session.execute(query)}

    def _version(self, row: VersionRow) -> ModelVersion:
        query = select(AliasRow.alias).where(
            AliasRow.model == row.model, AliasRow.number == row.number
        )
        aliases = tuple(sorted(self._session.scalars(query)))
        version = from_document(row.document)
        return replace(version, stage=Stage(row.stage), aliases=aliases)


def all_models(engine: Engine) -> list[tuple[Model, list[ModelVersion]]]:
    """Reads every model with its versions, oldest first."""
    found: list[tuple[Model, list[ModelVersion]]] = []
    with reading(engine) as session:
        records = SqlRecords(session)
        while page := records.models(found[-1][0].id if found else "", 100):
            found += [(model, records.versions(model.id, None, 10_000)[::-1]) for model in page]
    return found


def _model(row: ModelRow, aliases: dict[str, int]) -> Model:
    return Model(
        id=row.id,
        description=row.description,
        owner=row.owner,
        tags=row.tags,
        aliases=aliases,
        requires_approval=row.requires_approval,
        create_time=row.create_time,
        update_time=row.update_time,
        version_count=row.version_count,
    )


def _audit_event(row: AuditRow) -> AuditEvent:
    return AuditEvent(row.resource, row.action, row.actor, row.reason, row.event_time)
