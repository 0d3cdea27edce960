"""The gRPC face of the registry."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias, TypeVar

import grpc
from google.protobuf import empty_pb2
from google.protobuf.message import Message
from modelyard.registry.v1 import registry_pb2 as pb
from modelyard.registry.v1 import registry_pb2_grpc

from registry_svc import messages as to
from registry_svc.domain import ModelVersion
from registry_svc.service import Records, Registry
from service_kit.context import current_caller
from service_kit.errors import InvalidArgument
from service_kit.ledger import Ledger, Mutation
from service_kit.names import parse_name
from service_kit.paging import encode_token, page_params

Context: TypeAlias = grpc.ServicerContext
VERSION = "models/{model}/versions/{version}"
ALIAS = "models/{model}/aliases/{alias}"


M = TypeVar("M", bound=Message)


class RegistryApi(registry_pb2_grpc.RegistryServiceServicer):
    """Serves `modelyard.registry.v1.RegistryService`."""

    def __init__(
        self, ledger: Ledger[Records], registry: Registry, changed: Callable[[], None]
    ) -> None:
        self._ledger = ledger
        self._registry = registry
        self._changed = changed

    def CreateModel(self, request: pb.CreateModelRequest, context: Context) -> pb.Model:
        wanted = to.model_from_message(request.model_id, request.model)
        return self._once(
            request,
            pb.Model,
            lambda records: to.model_to_message(
                self._registry.create_model(records, wanted, actor())
            ),
        )

    def GetModel(self, request: pb.GetModelRequest, context: Context) -> pb.Model:
        model_id = parse_name("models/{model}", request.name)["model"]
        with self._ledger.reading() as records:
            return to.model_to_message(self._registry.get_model(records, model_id))

    def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:
        page = page_params(request.page_size, request.page_token)
        with self._ledger.reading() as records:
            found = records.models(page.offset_token, page.size + 1)
        shown = found[: page.size]
        more = encode_token(shown[-1].id) if len(found) > page.size else ""
        return pb.ListModelsResponse(
            models=[to.model_to_message(each) for each in shown], next_page_token=more
        )

    def UpdateModel(self, request: pb.UpdateModelRequest, context: Context) -> pb.Model:
        model_id = parse_name("models/{model}", request.model.name, field="model.name")["model"]
        wanted = to.model_from_message(model_id, request.model)
        paths = list(request.update_mask.paths)
        return self._once(
            request,
            pb.Model,
            lambda records: to.model_to_message(
                self._registry.update_model(records, wanted, paths, actor())
            ),
        )

    def CreateModelVersion(
        self, request: pb.CreateModelVersionRequest, context: Context
    ) -> pb.ModelVersion:
        model_id = parse_name("models/{model}", request.parent, field="parent")["model"]
        wanted = to.version_from_message(model_id, request.model_version)
        return self._once(
            request,
            pb.ModelVersion,
            lambda records: to.version_to_message(
                self._registry.create_version(records, wanted, actor())
            ),
        )

    def GetModelVersion(
        self, request: pb.GetModelVersionRequest, context: Context
    ) -> pb.ModelVersion:
        with self._ledger.reading() as records:
            return to.version_to_message(self._find(records, request.name))

    def ListModelVersions(
        self, request: pb.ListModelVersionsRequest, context: Context
    ) -> pb.ListModelVersionsResponse:
        model_id = parse_name("models/{model}", request.parent, field="parent")["model"]
        page = page_params(request.page_size, request.page_token)
        with self._ledger.reading() as records:
            self._registry.get_model(records, model_id)
            found = records.versions(model_id, offset(page.offset_token), page.size + 1)
        shown = found[: page.size]
        more = encode_token(str(shown[-1].number)) if len(found) > page.size else ""
        return pb.ListModelVersionsResponse(
            model_versions=[to.version_to_message(each) for each in shown], next_page_token=more
        )

    def TransitionModelVersion(
        self, request: pb.TransitionModelVersionRequest, context: Context
    ) -> pb.ModelVersion:
        stage = to.stage_from_message(request.stage)
        return self._once(
            request,
            pb.ModelVersion,
            lambda records: to.version_to_message(
                self._registry.transition(
                    records, self._find(records, request.name), stage, request.reason, actor()
                )
            ),
        )

    def ReviewModelVersion(
        self, request: pb.ReviewModelVersionRequest, context: Context
    ) -> pb.ModelVersion:
        return self._once(
            request,
            pb.ModelVersion,
            lambda records: to.version_to_message(
                self._registry.review(
                    records,
                    self._find(records, request.name),
                    request.approved,
                    request.comment,
                    actor(),
                )
            ),
        )

    def SetModelAlias(self, request: pb.SetModelAliasRequest, context: Context) -> pb.Model:
        ids = parse_name(ALIAS, request.name)
        target = parse_name(VERSION, request.model_version, field="model_version")
        if target["model"] != ids["model"]:
            raise InvalidArgument(
                "OTHER_MODEL", "must be a version of the same model", field="model_version"
            )
        number = version_number(target["version"], "model_version")
        return self._once(
            request,
            pb.Model,
            lambda records: to.model_to_message(
                self._registry.set_alias(
                    records, ids["model"], ids["alias"], number, request.reason, actor()
                )
            ),
        )

    def DeleteModelAlias(
        self, request: pb.DeleteModelAliasRequest, context: Context
    ) -> empty_pb2.Empty:
        ids = parse_name(ALIAS, request.name)

        def delete(records: Records) -> empty_pb2.Empty:
            self._registry.delete_alias(records, ids["model"], ids["alias"], actor())
            return empty_pb2.Empty()

        return self._once(request, empty_pb2.Empty, delete)

    def GetLineage(self, request: pb.GetLineageRequest, context: Context) -> pb.LineageGraph:
        with self._ledger.reading() as records:
            graph = self._registry.lineage(self._find(records, request.name))
        return pb.LineageGraph(
            nodes=[pb.LineageNode(name=name, kind=kind) for name, kind in graph.nodes],
            edges=[pb.LineageEdge(source=source, target=target) for source, target in graph.edges],
        )

    def GetModelCard(self, request: pb.GetModelCardRequest, context: Context) -> pb.ModelCard:
        with self._ledger.reading() as records:
            card = self._registry.card(records, self._find(records, request.name))
        return pb.ModelCard(markdown=card)

    def WriteArtifact(
        self, request_iterator: Iterator[pb.WriteArtifactRequest], context: Context
    ) -> pb.Artifact:
        first = next(request_iterator, None)
        if first is None:
            raise InvalidArgument("NOTHING_SENT", "must hold the content", field="chunk")

        def chunks() -> Iterator[bytes]:
            yield first.chunk
            for message in request_iterator:
                yield message.chunk

        artifact = self._registry.store_artifact(chunks(), first.sha256)
        with self._ledger.writing() as records:
            known = self._registry.record_artifact(records, artifact)
        return to.artifact_to_message(known)

    def ReadArtifact(
        self, request: pb.ReadArtifactRequest, context: Context
    ) -> Iterator[pb.ReadArtifactResponse]:
        sha256 = parse_name("artifacts/{sha256}", request.name)["sha256"]
        with self._ledger.reading() as records:
            chunks = self._registry.read_artifact(records, sha256)
        for chunk in chunks:
            yield pb.ReadArtifactResponse(chunk=chunk)

    def ListAuditEvents(
        self, request: pb.ListAuditEventsRequest, context: Context
    ) -> pb.ListAuditEventsResponse:
        page = page_params(request.page_size, request.page_token)
        with self._ledger.reading() as records:
            found = records.audit(request.resource, offset(page.offset_token), page.size + 1)
        shown = found[: page.size]
        more = encode_token(str(shown[-1][0])) if len(found) > page.size else ""
        return pb.ListAuditEventsResponse(
            events=[to.audit_to_message(event) for _, event in shown], next_page_token=more
        )

    def _find(self, records: Records, name: str) -> ModelVersion:
        """Finds a version by its name or by an alias's."""
        if "/aliases/" in name:
            ids = parse_name(ALIAS, name)
            return self._registry.resolve_alias(records, ids["model"], ids["alias"])
        ids = parse_name(VERSION, name)
        number = version_number(ids["version"], "name")
        return self._registry.get_version(records, ids["model"], number)

    def _once(self, request: Mutation, kind: type[M], effect: Callable[[Records], M]) -> M:
        answer = self._ledger.once(request, kind, effect)
        self._changed()
        return answer


def actor() -> str:
    """Who calls."""
    return current_caller().principal


def version_number(text: str, field: str) -> int:
    """Reads the number of a version."""
    if not text.isdecimal() or len(text) > 9:
        raise InvalidArgument("INVALID_NAME", f"must have the form {VERSION}", field=field)
    return int(text)


def offset(token: str) -> int | None:
    """Reads a page token that is a number."""
    if token and not token.isdecimal():
        raise InvalidArgument(
            "INVALID_PAGE_TOKEN", "must be the next_page_token of an answer", field="page_token"
        )
    return int(token) if token else None
