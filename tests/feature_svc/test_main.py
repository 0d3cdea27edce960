"""The process: it answers before it has imported Feast."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from modelyard.features.v1 import features_pb2 as pb
from modelyard.features.v1 import features_pb2_grpc
from pydantic import SecretStr

from feature_svc.loading import LazyFeast
from service_kit.channels import open_channel
from service_kit.settings import ServiceSettings
from tests.feature_svc.examples import apply_request, at, definitions, delays

TOKEN = "s" * 64


def test_the_process_serves_and_ends_when_told(
    redis_url: str, project: str, tmp_path: Path
) -> None:
    ready = tmp_path / "ready.json"
    environment = {
        **os.environ,
        "MODELYARD_HOME": str(tmp_path),
        "MODELYARD_REDIS_URL": redis_url,
        "MODELYARD_STREAM_PREFIX": project,
        "MODELYARD_SERVICE_TOKEN": TOKEN,
        "MODELYARD_READY_FILE": str(ready),
        "MODELYARD_DIE_WITH_PARENT": "true",
    }
    process = subprocess.Popen([sys.executable, "-m", "feature_svc"], env=environment)
    try:
        deadline = time.monotonic() + 60
        while not ready.exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        maps = Path(f"/proc/{process.pid}/maps")
        if maps.exists():
            # Feast brings pandas with it; nothing else needs it here.
            assert "/pandas/" not in maps.read_text()
        settings = ServiceSettings(
            service="features", home=tmp_path, service_token=SecretStr(TOKEN)
        )
        with open_channel(json.loads(ready.read_text())["grpc"], settings) as channel:
            stub = features_pb2_grpc.FeatureServiceStub(channel)
            assert len(stub.ApplyDefinitions(apply_request()).changes) == 9
            listed = stub.ListDataSources(pb.ListDataSourcesRequest())
            assert len(listed.data_sources) == 3
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.wait()


def test_feast_is_imported_when_it_is_needed(redis_url: str, project: str, tmp_path: Path) -> None:
    feast = LazyFeast(tmp_path, project, redis_url)
    assert feast._store is None
    assert feast.load(definitions(), "delays", delays(["AA"], [1.0], [1], [1]), at(0), at(2)) == 1
    assert feast._store is not None


def test_stopping_before_the_import_leaves_it_out(redis_url: str, tmp_path: Path) -> None:
    feast = LazyFeast(tmp_path, "p", redis_url)
    feast.start()
    feast.stop()
    time.sleep(0.05)
    assert feast._store is None
