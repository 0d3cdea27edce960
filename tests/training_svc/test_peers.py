"""The registry as the steps see it, against the real one."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from modelyard.registry.v1 import registry_pb2 as pb
from modelyard.registry.v1 import registry_pb2_grpc
from pydantic import SecretStr

from registry_svc.__main__ import build
from service_kit.channels import Peers, open_channel
from service_kit.errors import NotFound
from service_kit.server import ServiceServer
from service_kit.settings import ServiceSettings
from tests.training_svc.examples import WHEN, pipeline, run
from tests.training_svc.world import World
from training_svc.peers import RegistryClient
from training_svc.steps import Job

MODEL = "models/late-arrival"


@pytest.fixture
def settings(redis_url: str, tmp_path: Path) -> Iterator[ServiceSettings]:
    """Settings of a training service beside a registry that runs in this process."""
    common: dict[str, Any] = {"home": tmp_path, "service_token": SecretStr("s" * 64)}
    own = ServiceSettings(service="registry", redis_url=redis_url, **common)
    application = build(own)
    with ServiceServer(own, application.services, application.pings) as server:
        yield ServiceSettings(service="training", peers={"registry": server.address}, **common)


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
