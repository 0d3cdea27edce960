"""The registry through its contract."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from modelyard.registry.v1 import registry_pb2 as pb
from modelyard.registry.v1 import registry_pb2_grpc
from sqlalchemy import Engine

from registry_svc.storage import Base
from service_kit.channels import calling
from service_kit.database import migrate
from service_kit.errors import (
    AlreadyExists,
    DomainError,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
)
from service_kit.migrations import schema_differences
from tests.registry_svc.examples import version_message

Stub = registry_pb2_grpc.RegistryServiceStub
Write = Callable[[bytes], str]
NAME = "models/late-arrival"


@contextmanager
def refused(kind: type[DomainError], reason: str, field: str | None = None) -> Iterator[None]:
    with pytest.raises(kind) as error, calling("registry"):
        yield
    assert error.value.reason == reason
    if field is not None:
        assert error.value.field == field


def create(registry: Stub, write: Write, versions: int = 1) -> None:
    registry.CreateModel(
        pb.CreateModelRequest(model_id="late-arrival", model=pb.Model(owner="ops"))
    )
    for at in range(versions):
        artifact = write(f"model {at}".encode())
        registry.CreateModelVersion(
            pb.CreateModelVersionRequest(parent=NAME, model_version=version_message(artifact))
        )


def test_migrations_make_the_tables_of_the_models(sql_engine: Engine) -> None:
    migrate(sql_engine, "registry_svc")
    assert schema_differences(sql_engine, Base.metadata) == []


def test_versions_count_up_and_keep_what_was_registered(registry: Stub, write: Write) -> None:
    create(registry, write, versions=3)
    listed = registry.ListModelVersions(pb.ListModelVersionsRequest(parent=NAME, page_size=2))
    assert [each.name for each in listed.model_versions] == [
        f"{NAME}/versions/3",
        f"{NAME}/versions/2",
    ]
    rest = registry.ListModelVersions(
        pb.ListModelVersionsRequest(parent=NAME, page_size=2, page_token=listed.next_page_token)
    )
    assert [each.name for each in rest.model_versions] == [f"{NAME}/versions/1"]
    assert rest.next_page_token == ""
    kept = rest.model_versions[0]
    assert kept.metrics["pr_auc"] == 0.5
    assert kept.lineage.pipeline_run == "pipelines/late/runs/1"
    assert kept.creator == "services/registry"
    assert registry.GetModel(pb.GetModelRequest(name=NAME)).version_count == 3


def test_a_repeated_registration_gives_the_first_answer(registry: Stub, write: Write) -> None:
    create(registry, write)
    request = pb.CreateModelVersionRequest(
        parent=NAME, model_version=version_message(write(b"again")), request_id="once"
    )
    first = registry.CreateModelVersion(request)
    assert registry.CreateModelVersion(request) == first
    assert registry.GetModel(pb.GetModelRequest(name=NAME)).version_count == 2
    request.model_version.description = "another"
    with refused(InvalidArgument, "REQUEST_ID_REUSED", "request_id"):
        registry.CreateModelVersion(request)


def test_an_alias_finds_its_version_and_moves(registry: Stub, write: Write) -> None:
    create(registry, write, versions=2)
    for number in (1, 2):
        registry.SetModelAlias(
            pb.SetModelAliasRequest(
                name=f"{NAME}/aliases/champion", model_version=f"{NAME}/versions/{number}"
            )
        )
    found = registry.GetModelVersion(pb.GetModelVersionRequest(name=f"{NAME}/aliases/champion"))
    assert found.name == f"{NAME}/versions/2"
    assert list(found.aliases) == ["champion"]
    registry.DeleteModelAlias(pb.DeleteModelAliasRequest(name=f"{NAME}/aliases/champion"))
    with refused(NotFound, "ALIAS_NOT_FOUND", "name"):
        registry.GetModelVersion(pb.GetModelVersionRequest(name=f"{NAME}/aliases/champion"))


def test_stages_reviews_and_audit(registry: Stub, write: Write) -> None:
    create(registry, write)
    registry.UpdateModel(
        pb.UpdateModelRequest(model=pb.Model(name=NAME, requires_approval=True), request_id="u")
    )
    move = pb.TransitionModelVersionRequest(
        name=f"{NAME}/versions/1", stage=pb.STAGE_PRODUCTION, reason="canary won"
    )
    with refused(FailedPrecondition, "APPROVAL_MISSING", "stage"):
        registry.TransitionModelVersion(move)
    registry.ReviewModelVersion(
        pb.ReviewModelVersionRequest(name=f"{NAME}/versions/1", approved=True, comment="good")
    )
    assert registry.TransitionModelVersion(move).stage == pb.STAGE_PRODUCTION
    events = registry.ListAuditEvents(pb.ListAuditEventsRequest(resource=NAME)).events
    assert [each.action for each in events] == [
        "moved to PRODUCTION",
        "approved",
        "updated",
        "registered",
        "created",
    ]
    assert events[0].reason == "canary won"


def test_artifacts_are_addressed_by_content(registry: Stub, write: Write) -> None:
    content = bytes(range(256)) * 10_000
    name = write(content)
    assert write(content) == name
    read = b"".join(each.chunk for each in registry.ReadArtifact(pb.ReadArtifactRequest(name=name)))
    assert read == content
    with refused(NotFound, "ARTIFACT_NOT_FOUND", "name"):
        list(registry.ReadArtifact(pb.ReadArtifactRequest(name=f"artifacts/{'0' * 64}")))
    with refused(InvalidArgument, "HASH_MISMATCH", "sha256"):
        registry.WriteArtifact(iter([pb.WriteArtifactRequest(chunk=b"x", sha256="0" * 64)]))


def test_a_damaged_artifact_is_not_handed_out_as_whole(
    registry: Stub, write: Write, tmp_path: Path
) -> None:
    name = write(b"precious")
    digest = name.removeprefix("artifacts/")
    (tmp_path / "artifacts" / digest[:2] / digest).write_bytes(b"poisoned")
    with pytest.raises(grpc.RpcError) as error:
        list(registry.ReadArtifact(pb.ReadArtifactRequest(name=name)))
    assert error.value.code() is grpc.StatusCode.INTERNAL


def test_bad_requests_name_the_field(registry: Stub, write: Write) -> None:
    create(registry, write)
    with refused(AlreadyExists, "MODEL_EXISTS", "model_id"):
        registry.CreateModel(pb.CreateModelRequest(model_id="late-arrival"))
    with refused(InvalidArgument, "INVALID_ID", "model_id"):
        registry.CreateModel(pb.CreateModelRequest(model_id="No Spaces"))
    with refused(NotFound, "MODEL_NOT_FOUND", "name"):
        registry.GetModel(pb.GetModelRequest(name="models/unknown"))
    with refused(NotFound, "VERSION_NOT_FOUND", "name"):
        registry.GetModelVersion(pb.GetModelVersionRequest(name=f"{NAME}/versions/9"))
    with refused(InvalidArgument, "INVALID_NAME", "name"):
        registry.GetModelVersion(pb.GetModelVersionRequest(name=f"{NAME}/versions/nine"))
    with refused(FailedPrecondition, "ARTIFACT_NOT_WRITTEN", "model_version.artifacts[0].artifact"):
        registry.CreateModelVersion(
            pb.CreateModelVersionRequest(
                parent=NAME, model_version=version_message(f"artifacts/{'1' * 64}")
            )
        )
    with refused(InvalidArgument, "INVALID_STAGE", "stage"):
        registry.TransitionModelVersion(pb.TransitionModelVersionRequest(name=f"{NAME}/versions/1"))


def test_lineage_and_card(registry: Stub, write: Write) -> None:
    create(registry, write)
    graph = registry.GetLineage(pb.GetLineageRequest(name=f"{NAME}/versions/1"))
    assert ("pipelines/late/runs/1", "pipeline_run") in {(n.name, n.kind) for n in graph.nodes}
    card = registry.GetModelCard(pb.GetModelCardRequest(name=f"{NAME}/versions/1"))
    assert "pr_auc" in card.markdown
