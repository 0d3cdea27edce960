"""The other services, as the steps need them, over their contracts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from google.protobuf import json_format
from modelyard.features.v1 import features_pb2, features_pb2_grpc
from modelyard.registry.v1 import registry_pb2, registry_pb2_grpc
from modelyard.serving.v1 import serving_pb2, serving_pb2_grpc

from service_kit.channels import Peers, calling
from service_kit.errors import AlreadyExists, FailedPrecondition, NotFound
from training_svc.domain.encoding import Input
from training_svc.ports import Champion, Document
from training_svc.steps.releasing import WINDOW_TAG
from training_svc.tables import ArrowTable, from_chunks

LONG_CALL = 300.0
CHUNK = 1 << 20
MOST_BYTES = 1 << 30
"""Most bytes of an artifact that is read into memory."""


class FeatureClient:
    """The feature service."""

    def __init__(self, peers: Peers) -> None:
        self._stub = features_pb2_grpc.FeatureServiceStub(peers.channel("features"))

    def snapshot(
        self, source: str, start: datetime | None, end: datetime, known_by: str, request_id: str
    ) -> str:
        """Freezes the rows of an interval; gives the snapshot's name."""
        request = features_pb2.CreateSnapshotRequest(
            data_source=source, known_by_field=known_by, request_id=request_id
        )
        if start is not None:
            request.start_time.FromDatetime(start)
        request.end_time.FromDatetime(end)
        with calling("features"):
            return str(self._stub.CreateSnapshot(request, timeout=LONG_CALL).name)

    def read_snapshot(self, snapshot: str) -> ArrowTable:
        """Reads the rows of a snapshot."""
        request = features_pb2.ReadSnapshotRequest(name=snapshot)
        with calling("features"):
            chunks = self._stub.ReadSnapshot(request, timeout=LONG_CALL)
            return from_chunks(chunk.arrow_ipc for chunk in chunks)

    def training_set(self, snapshot: str, feature_service: str, request_id: str) -> Document:
        """Joins a snapshot with the features of a service."""
        request = features_pb2.CreateTrainingSetRequest(
            snapshot=snapshot, feature_service=feature_service, request_id=request_id
        )
        with calling("features"):
            made = self._stub.CreateTrainingSet(request, timeout=LONG_CALL)
        return {
            "training_set": made.name,
            "definitions_hash": made.definitions_hash,
            "rows": made.row_count,
        }

    def read_training_set(self, training_set: str) -> ArrowTable:
        """Reads the rows of a training set; the newest few are kept, as each step reads them."""
        return self._read_training_set(training_set)

    @lru_cache(maxsize=2)  # noqa: B019 - one client a process
    def _read_training_set(self, training_set: str) -> ArrowTable:
        request = features_pb2.ReadTrainingSetRequest(name=training_set)
        with calling("features"):
            chunks = self._stub.ReadTrainingSet(request, timeout=LONG_CALL)
            return from_chunks(chunk.arrow_ipc for chunk in chunks)

    def timestamp_field(self, source: str) -> str:
        """Column that says when a row became known."""
        request = features_pb2.GetDataSourceRequest(name=source)
        with calling("features"):
            return str(self._stub.GetDataSource(request).timestamp_field)

    def join_keys(self, feature_service: str) -> tuple[str, ...]:
        """Entity keys that a feature service needs."""
        return tuple(self._feature_service(feature_service).join_keys)

    def feature_names(self, feature_service: str) -> tuple[str, ...]:
        """Names of the features of a service, without their view."""
        listed = self._feature_service(feature_service).features
        return tuple(each.partition(":")[2] for each in listed)

    def _feature_service(self, name: str) -> features_pb2.FeatureServiceDefinition:
        with calling("features"):
            request = features_pb2.GetFeatureServiceRequest(name=name)
            found: features_pb2.FeatureServiceDefinition = self._stub.GetFeatureService(request)
            return found


class RegistryClient:
    """The model registry."""

    def __init__(self, peers: Peers) -> None:
        self._stub = registry_pb2_grpc.RegistryServiceStub(peers.channel("registry"))

    def write(self, content: bytes) -> str:
        """Stores content; gives `artifacts/{sha256}`."""
        digest = hashlib.sha256(content).hexdigest()

        def messages() -> Iterator[registry_pb2.WriteArtifactRequest]:
            for at in range(0, max(len(content), 1), CHUNK):
                yield registry_pb2.WriteArtifactRequest(
                    chunk=content[at : at + CHUNK], sha256="" if at else digest
                )

        with calling("registry"):
            return str(self._stub.WriteArtifact(messages(), timeout=LONG_CALL).name)

    def read(self, artifact: str, most_bytes: int = MOST_BYTES) -> bytes:
        """Reads stored content and verifies it.

        Raises:
            FailedPrecondition: `ARTIFACT_TOO_LARGE`, `ARTIFACT_CORRUPT`.
        """
        request = registry_pb2.ReadArtifactRequest(name=artifact)
        content = bytearray()
        with calling("registry"):
            for each in self._stub.ReadArtifact(request, timeout=LONG_CALL):
                content += each.chunk
                if len(content) > most_bytes:
                    raise FailedPrecondition(
                        "ARTIFACT_TOO_LARGE", f"{artifact} has over {most_bytes:,} bytes"
                    )
        if artifact != f"artifacts/{hashlib.sha256(content).hexdigest()}":
            raise FailedPrecondition("ARTIFACT_CORRUPT", "the artifact has another content")
        return bytes(content)

    def champion(self, model: str) -> Champion | None:
        """The version that the alias `champion` points at."""
        try:
            return self.version(f"{model}/aliases/champion")
        except NotFound:
            return None

    def version(self, name: str) -> Champion:
        """A version by its name or by an alias."""
        request = registry_pb2.GetModelVersionRequest(name=name)
        with calling("registry"):
            version = self._stub.GetModelVersion(request)
        files = [each.artifact for each in version.artifacts if each.role == "model"]
        if not files:
            raise FailedPrecondition("NO_MODEL_FILE", "the champion has no file to score with")
        return Champion(
            version=version.name,
            runtime=version.runtime,
            artifact=files[0],
            inputs=tuple(_input(each) for each in version.signature.inputs),
            window_end=_moment(version.tags.get(WINDOW_TAG, "")),
        )

    def ensure_model(self, model: str, owner: str, request_id: str) -> None:
        """Creates a model unless it exists."""
        request = registry_pb2.CreateModelRequest(
            model_id=model.partition("/")[2],
            model=registry_pb2.Model(owner=owner),
            request_id=request_id,
        )
        with suppress(AlreadyExists), calling("registry"):
            self._stub.CreateModel(request)

    def register(self, model: str, version: Document, request_id: str) -> str:
        """Registers a version; gives its name."""
        request = registry_pb2.CreateModelVersionRequest(
            parent=model, model_version=_version_message(version), request_id=request_id
        )
        with calling("registry"):
            return str(self._stub.CreateModelVersion(request).name)


class ServingClient:
    """The serving service."""

    def __init__(self, peers: Peers) -> None:
        self._stub = serving_pb2_grpc.ServingServiceStub(peers.channel("serving"))

    def champion_version(self, endpoint: str) -> str:
        """The version that an endpoint serves; empty when there is none yet."""
        with calling("serving"):
            traffic = self._stub.GetEndpoint(serving_pb2.GetEndpointRequest(name=endpoint)).traffic
        versions = {each.variant: each.model_version for each in traffic.variants}
        return str(versions.get(traffic.champion, ""))

    def deploy(self, endpoint: str, version: str, reason: str, request_id: str) -> None:
        """Deploys a version to an endpoint at once."""
        request = serving_pb2.DeployVersionRequest(
            endpoint=endpoint, model_version=version, reason=reason, request_id=request_id
        )
        with calling("serving"):
            self._stub.DeployVersion(request)

    def roll_out(
        self, endpoint: str, version: str, strategy: Mapping[str, Any], request_id: str
    ) -> str:
        """Starts the rollout of a version; gives its name."""
        request = serving_pb2.CreateRolloutRequest(parent=endpoint, request_id=request_id)
        request.rollout.model_version = version
        json_format.ParseDict(dict(strategy), request.rollout.strategy)
        with calling("serving"):
            return str(self._stub.CreateRollout(request).name)


def _moment(text: str) -> datetime | None:
    """A moment of a tag, which anybody may have written; None when it is none."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _input(message: Any) -> Input:
    kind = type(message)
    return Input(
        name=message.name,
        source=kind.Source.Name(message.source).removeprefix("SOURCE_"),
        required=message.required,
        categories=tuple(message.categories),
        categorical=message.kind == kind.KIND_CATEGORICAL,
    )


def _version_message(version: Document) -> registry_pb2.ModelVersion:
    message = registry_pb2.ModelVersion(
        runtime=version["runtime"],
        metrics=version["metrics"],
        parameters=version["parameters"],
        tags=version["tags"],
        lineage=registry_pb2.Lineage(**version["lineage"]),
        artifacts=[
            registry_pb2.VersionArtifact(role=role, filename=name, artifact=at, format=kind)
            for role, name, at, kind in version["artifacts"]
        ],
        gate=gate_message(version["gate"]),
        parity_reports=[registry_pb2.ParityReport(**each) for each in version["parity_reports"]],
    )
    signature = message.signature
    for each in version["inputs"]:
        signature.inputs.add(
            name=each["name"],
            kind="KIND_CATEGORICAL" if each["categorical"] else "KIND_NUMERIC",
            source=f"SOURCE_{each['source']}",
            categories=each["categories"],
            required=each["required"],
        )
    signature.outputs.extend(version["outputs"])
    signature.entity_keys.extend(version["entity_keys"])
    signature.feature_service = version["feature_service"]
    return message


def gate_message(gate: Mapping[str, Any]) -> registry_pb2.GateVerdict:
    """The contract's verdict of a gate's document; empty for an empty one."""
    if not gate:
        return registry_pb2.GateVerdict()
    outcome = "OUTCOME_PASSED" if gate["passed"] else "OUTCOME_REFUSED"
    return registry_pb2.GateVerdict(
        outcome=outcome,
        checks=[registry_pb2.GateCheck(**each) for each in gate["checks"]],
        reasons=gate["reasons"],
    )
