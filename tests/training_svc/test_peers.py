"""The registry and the feature service as the steps see them, against the real ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from modelyard.features.v1 import features_pb2, features_pb2_grpc
from modelyard.registry.v1 import registry_pb2 as pb
from modelyard.registry.v1 import registry_pb2_grpc
from pydantic import SecretStr

import feature_svc.__main__
import registry_svc.__main__
from feature_svc.settings import FeatureSettings
from service_kit.channels import Peers, open_channel
from service_kit.errors import NotFound
from service_kit.server import ServiceServer
from service_kit.settings import ServiceSettings
from tests.feature_svc import examples as features
from tests.training_svc.examples import WHEN, pipeline, run
from tests.training_svc.world import World
from training_svc.peers import FeatureClient, RegistryClient
from training_svc.steps import Job

MODEL = "models/late-arrival"


@contextmanager
def beside(area: str, build: Any, redis_url: str, folder: Path) -> Iterator[ServiceSettings]:
    """Settings of a training service beside a peer that runs in this process."""
    common: dict[str, Any] = {"home": folder, "service_token": SecretStr("s" * 64)}
    prefix = f"training-{folder.name}"
    kind = FeatureSettings if area == "features" else ServiceSettings
    own = kind(service=area, redis_url=redis_url, stream_prefix=prefix, **common)
    application = build(own)
    with ServiceServer(own, application.services, application.pings) as server:
        yield ServiceSettings(service="training", peers={area: server.address}, **common)


@pytest.fixture
def settings(redis_url: str, tmp_path: Path) -> Iterator[ServiceSettings]:
    """Settings of a training service beside a registry."""
    with beside("registry", registry_svc.__main__.build, redis_url, tmp_path) as found:
        yield found


def test_rows_are_frozen_joined_and_read(redis_url: str, tmp_path: Path) -> None:
    rows = [("AA", f"N{at}", 7, at % 2, at / 10, at / 10 + 2) for at in range(100)]
    with (
        beside("features", feature_svc.__main__.build, redis_url, tmp_path) as settings,
        Peers(settings) as peers,
    ):
        stub = features_pb2_grpc.FeatureServiceStub(peers.channel("features"))
        stub.ApplyDefinitions(features.apply_request())
        tables = {
            "flights": features.flights(rows),
            "delays": features.delays(["AA"], [3.5], [2], [1]),
        }
        for name, table in tables.items():
            source = f"dataSources/{name}"
            stub.IngestRows(
                features_pb2.IngestRowsRequest(data_source=source, table=features.ipc(table))
            )
        client = FeatureClient(peers)
        wanted = ("dataSources/flights", features.at(2), features.at(9), "landed")
        snapshot = client.snapshot(*wanted, "run-1:snapshot")
        assert client.snapshot(*wanted, "run-1:snapshot") == snapshot
        made = client.training_set(snapshot, "featureServices/late", "run-1:features")
        # Departed from 2 to 9 hours, and landed by then.
        assert made["rows"] == client.read_snapshot(snapshot).row_count == 51
        joined = client.read_training_set(made["training_set"])
        assert joined.row_count == 51
        names = client.feature_names("featureServices/late")
        assert {"mean", "seats"} <= set(names) <= set(joined.columns)
        assert np.nanmax(joined.column("mean")) == 3.5
        assert np.isnan(joined.column("seats")).all()
        assert client.timestamp_field("dataSources/flights") == "departed"
        assert "carrier" in client.join_keys("featureServices/late")
        first = np.datetime64(features.at(2).replace(tzinfo=None), "us")
        assert joined.column("departed").min() == first


def test_a_version_is_registered_once_and_read_again_as_champion(
    settings: ServiceSettings, tmp_path: Path
) -> None:
    world = World(tmp_path / "world")
    job, steps = Job(run(), pipeline()), world.steps
    joined = steps.collecting.join(job, steps.collecting.snapshot(job)["snapshot"])
    trained = steps.learning.train(job, joined)
    evaluated = steps.judging.evaluate(job, joined, trained)
    verdict = steps.judging.compare(job, evaluated)
    steps.releasing.register(job, joined, trained, evaluated, verdict)
    version = world.versions[0]
    with Peers(settings) as peers:
        registry = RegistryClient(peers)
        assert registry.champion(MODEL) is None
        for _, _, artifact, _ in version["artifacts"]:
            content = (world.folder / artifact).read_bytes()
            assert registry.write(content) == artifact
            assert registry.read(artifact) == content
        for _ in range(2):
            registry.ensure_model(MODEL, job.pipeline.name, "run-1:model")
            registry.ensure_model(MODEL, job.pipeline.name, "run-2:model")
            assert registry.register(MODEL, version, "run-1:register") == f"{MODEL}/versions/1"
        assert registry.champion(MODEL) is None
        found = registry.version(f"{MODEL}/versions/1")
        assert found.window_end == datetime.fromisoformat(trained["holdout_from"])
        assert found.artifact == trained["artifact"]
        assert [each.name for each in found.inputs] == ["delay", "hour", "carrier"]
        assert found.inputs[2].categories == tuple(trained["inputs"][2]["categories"])
        assert found.inputs[2].categorical
        with pytest.raises(NotFound):
            registry.version(f"{MODEL}/versions/2")
    with open_channel(settings.peers["registry"], settings) as channel:
        stub = registry_pb2_grpc.RegistryServiceStub(channel)
        kept = stub.GetModelVersion(pb.GetModelVersionRequest(name=f"{MODEL}/versions/1"))
    assert kept.gate.outcome == pb.GateVerdict.OUTCOME_PASSED
    assert kept.lineage.code_commit == "c0ffee"
    assert kept.metrics["pr_auc"] == pytest.approx(evaluated["metrics"]["pr_auc"])
    assert WHEN.tzinfo is UTC


def test_large_content_goes_up_and_down(settings: ServiceSettings) -> None:
    content = bytes(range(256)) * 14_000
    with Peers(settings) as peers:
        registry = RegistryClient(peers)
        assert registry.read(registry.write(content)) == content
        assert registry.read(registry.write(b"x")) == b"x"
