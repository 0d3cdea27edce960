"""Use cases of the registry, and the ports that they need."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Protocol

from registry_svc.domain import (
    Artifact,
    AuditEvent,
    LineageGraph,
    Model,
    ModelVersion,
    Review,
    Stage,
    check_new_version,
    check_transition,
    lineage_graph,
    model_card,
)
from service_kit.clock import Clock
from service_kit.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from service_kit.names import check_id

UPDATABLE = frozenset({"description", "owner", "tags", "requires_approval"})
SHA256 = re.compile(r"[0-9a-f]{64}")
MAX_TEXT = 10_000


class Records(Protocol):
    """The registry's tables, within one transaction."""

    def model(self, model_id: str) -> Model | None: ...
    def models(self, after: str, limit: int) -> list[Model]: ...
    def save_model(self, model: Model) -> None: ...
    def version(self, model_id: str, number: int) -> ModelVersion | None: ...
    def versions(self, model_id: str, below: int | None, limit: int) -> list[ModelVersion]: ...
    def add_version(self, version: ModelVersion) -> ModelVersion: ...
    def save_version(self, version: ModelVersion) -> None: ...
    def set_alias(self, model_id: str, alias: str, number: int) -> None: ...
    def delete_alias(self, model_id: str, alias: str) -> bool: ...
    def artifact(self, sha256: str) -> Artifact | None: ...
    def save_artifact(self, artifact: Artifact) -> None: ...
    def record(self, event: AuditEvent) -> None: ...
    def audit(
        self, resource: str, below: int | None, limit: int
    ) -> list[tuple[int, AuditEvent]]: ...


class Store(Protocol):
    """Opens transactions."""

    def transaction(self) -> AbstractContextManager[Records]: ...


class Blobs(Protocol):
    """Content by hash."""

    def write(self, chunks: Iterable[bytes]) -> tuple[str, int]:
        """Stores content; returns its sha256 in hex and its size in bytes."""

    def read(self, sha256: str) -> Iterator[bytes]:
        """Reads content in chunks, verifying it."""


@dataclass(frozen=True, slots=True)
class Registry:
    """The registry's use cases. The caller opens the transaction (`records`)."""

    clock: Clock
    blobs: Blobs

    def create_model(self, records: Records, wanted: Model, actor: str) -> Model:
        """Creates a model.

        Raises:
            AlreadyExists: A model of that id exists.
        """
        check_id(wanted.id, "model_id")
        check_texts({"model.description": wanted.description, "model.owner": wanted.owner})
        if records.model(wanted.id) is not None:
            raise AlreadyExists("MODEL_EXISTS", "a model of that id exists", field="model_id")
        now = self.clock.now()
        model = replace(wanted, create_time=now, update_time=now, aliases={}, version_count=0)
        records.save_model(model)
        self._audit(records, model.name, "created", actor)
        return model

    def get_model(self, records: Records, model_id: str) -> Model:
        """Gets a model."""
        model = records.model(model_id)
        if model is None:
            raise NotFound("MODEL_NOT_FOUND", "no such model", field="name")
        return model

    def update_model(
        self, records: Records, wanted: Model, paths: Iterable[str], actor: str
    ) -> Model:
        """Changes the named fields of a model; all that can be changed when none is named."""
        model = self.get_model(records, wanted.id)
        chosen = set(paths) or set(UPDATABLE)
        if unknown := chosen - UPDATABLE:
            raise InvalidArgument(
                "FIELD_NOT_UPDATABLE", "can't be changed", field=f"update_mask.{min(unknown)}"
            )
        changes = {path: getattr(wanted, path) for path in chosen}
        changed = replace(model, update_time=self.clock.now(), **changes)
        check_texts({"model.description": changed.description, "model.owner": changed.owner})
        records.save_model(changed)
        self._audit(records, model.name, "updated", actor, ", ".join(sorted(chosen)))
        return changed

    def create_version(self, records: Records, wanted: ModelVersion, actor: str) -> ModelVersion:
        """Registers the next version of a model."""
        self.get_model(records, wanted.model)
        check_new_version(wanted)
        for at, artifact in enumerate(wanted.artifacts):
            if records.artifact(artifact.sha256) is None:
                raise FailedPrecondition(
                    "ARTIFACT_NOT_WRITTEN",
                    "write the artifact first",
                    field=f"model_version.artifacts[{at}].artifact",
                )
        fresh = replace(
            wanted, create_time=self.clock.now(), creator=actor, stage=Stage.NONE, reviews=()
        )
        version = records.add_version(fresh)
        self._audit(records, version.name, "registered", actor, "; ".join(version.gate.reasons))
        return version

    def get_version(self, records: Records, model_id: str, number: int) -> ModelVersion:
        """Gets a version by its number."""
        self.get_model(records, model_id)
        version = records.version(model_id, number)
        if version is None:
            raise NotFound("VERSION_NOT_FOUND", "no such version", field="name")
        return version

    def resolve_alias(self, records: Records, model_id: str, alias: str) -> ModelVersion:
        """Gets the version that an alias points at."""
        number = self.get_model(records, model_id).aliases.get(alias)
        if number is None:
            raise NotFound("ALIAS_NOT_FOUND", "no such alias", field="name")
        return self.get_version(records, model_id, number)

    def transition(
        self, records: Records, version: ModelVersion, to: Stage, reason: str, actor: str
    ) -> ModelVersion:
        """Moves a version to another stage."""
        check_transition(self.get_model(records, version.model), version, to)
        if to is version.stage:
            return version
        changed = replace(version, stage=to)
        records.save_version(changed)
        self._audit(records, version.name, f"moved to {to}", actor, reason)
        return changed

    def review(
        self, records: Records, version: ModelVersion, approved: bool, comment: str, actor: str
    ) -> ModelVersion:
        """Records a person's word on a version."""
        check_texts({"comment": comment})
        review = Review(approved, actor, comment, self.clock.now())
        changed = replace(version, reviews=(*version.reviews, review))
        records.save_version(changed)
        self._audit(records, version.name, "approved" if approved else "rejected", actor, comment)
        return changed

    def set_alias(
        self, records: Records, model_id: str, alias: str, number: int, reason: str, actor: str
    ) -> Model:
        """Points an alias at a version."""
        check_id(alias, "name")
        version = self.get_version(records, model_id, number)
        records.set_alias(model_id, alias, number)
        self._audit(records, version.name, f"became {alias}", actor, reason)
        return self.get_model(records, model_id)

    def delete_alias(self, records: Records, model_id: str, alias: str, actor: str) -> None:
        """Takes an alias away."""
        self.get_model(records, model_id)
        if not records.delete_alias(model_id, alias):
            raise NotFound("ALIAS_NOT_FOUND", "no such alias", field="name")
        self._audit(records, f"models/{model_id}", f"alias {alias} removed", actor)

    def lineage(self, version: ModelVersion) -> LineageGraph:
        """Where a version comes from."""
        return lineage_graph(version)

    def card(self, records: Records, version: ModelVersion) -> str:
        """The model card of a version as Markdown."""
        return model_card(self.get_model(records, version.model), version)

    def store_artifact(self, chunks: Iterable[bytes], expected: str) -> Artifact:
        """Stores content outside any transaction; `record_artifact` makes it known.

        Raises:
            InvalidArgument: The content's hash is not the expected one.
        """
        sha256, size = self.blobs.write(chunks)
        if expected and expected != sha256:
            raise InvalidArgument(
                "HASH_MISMATCH", "is not the hash of what was sent", field="sha256"
            )
        return Artifact(sha256, size, self.clock.now())

    def record_artifact(self, records: Records, artifact: Artifact) -> Artifact:
        """Makes stored content known; the first record of a hash stays."""
        known = records.artifact(artifact.sha256)
        if known is not None:
            return known
        records.save_artifact(artifact)
        return artifact

    def read_artifact(self, records: Records, sha256: str) -> Iterator[bytes]:
        """Reads an artifact in chunks of at most 1 MiB."""
        if SHA256.fullmatch(sha256) is None or records.artifact(sha256) is None:
            raise NotFound("ARTIFACT_NOT_FOUND", "no such artifact", field="name")
        return self.blobs.read(sha256)

    def _audit(
        self, records: Records, resource: str, action: str, actor: str, reason: str = ""
    ) -> None:
        records.record(AuditEvent(resource, action, actor, reason, self.clock.now()))


def check_texts(texts: Mapping[str, str]) -> None:
    """Refuses texts that are too long to be meant."""
    for field, text in texts.items():
        if len(text) > MAX_TEXT:
            raise InvalidArgument("TOO_LONG", f"must be at most {MAX_TEXT} characters", field=field)
