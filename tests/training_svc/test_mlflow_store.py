"""Tracking against a real MLflow server."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing

import pytest

from service_kit.errors import Unavailable
from tests.training_svc.examples import run
from training_svc.mlflow_store import RUN_TAG, MlflowTracking

PARAMETERS = {"trainer": "lightgbm", "num_leaves": "31"}
FILES = {"calibration.png": b"\x89PNG"}


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def mlflow_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An MLflow server of this session, on SQLite."""
    folder = tmp_path_factory.mktemp("mlflow")
    url = f"http://127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"]
    storage = ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--serve-artifacts"]
    options = ["--workers", "1", "--artifacts-destination", str(folder / "artifacts")]
    environment = os.environ | {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(
            [*command, "--port", url.rpartition(":")[2], *storage, *options],
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            wait_for(f"{url}/health")
            yield url
        finally:
            os.killpg(server.pid, 9)
            server.wait()


def wait_for(url: str) -> None:
    deadline = time.monotonic() + 90
    while True:
        try:
            urllib.request.urlopen(url, timeout=2).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def log(tracking: MlflowTracking, run_id: str, **metrics: float) -> str:
    tags = {"modelyard.trigger": "DRIFT"}
    return tracking.log("late", run(id=run_id), PARAMETERS, metrics, tags, FILES)


def test_a_run_is_logged_once_with_everything(mlflow_url: str) -> None:
    from mlflow import MlflowClient

    tracking = MlflowTracking(mlflow_url)
    first = log(tracking, "run-1", pr_auc=0.5)
    assert log(tracking, "run-1", pr_auc=0.5) == first
    other = log(tracking, "run-2", pr_auc=0.6)
    assert other != first
    client = MlflowClient(tracking_uri=mlflow_url)
    experiment = client.get_experiment_by_name("late")
    assert len(client.search_runs([experiment.experiment_id])) == 2
    found = client.get_run(first)
    assert found.data.params == PARAMETERS
    assert found.data.metrics == {"pr_auc": 0.5}
    assert found.data.tags[RUN_TAG] == "run-1"
    assert found.data.tags["modelyard.trigger"] == "DRIFT"
    assert found.info.status == "FINISHED"
    assert [each.path for each in client.list_artifacts(first, "plots")] == [
        "plots/calibration.png"
    ]


def test_a_server_that_is_away_is_a_passing_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(Unavailable):
        log(MlflowTracking(f"http://127.0.0.1:{free_port()}"), "run-1")
