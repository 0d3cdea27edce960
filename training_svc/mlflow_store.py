"""Experiment tracking in MLflow: the one file that imports it here."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from service_kit.errors import Unavailable
from training_svc.domain.pipelines import PipelineRun

RUN_TAG = "modelyard.run"
KIND = {"mlflow.experimentKind": "custom_model_development"}
"""Has the UI show runs of training, not traces of a language model."""

HTTP_TIMEOUT_S = "20"
HTTP_RETRIES = "3"


class MlflowTracking:
    """Logs runs to an MLflow server, each once."""

    def __init__(self, url: str) -> None:
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", HTTP_TIMEOUT_S)
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", HTTP_RETRIES)
        self._url = url
        self._client: Any = None

    def log(
        self,
        experiment: str,
        run: PipelineRun,
        parameters: Mapping[str, str],
        metrics: Mapping[str, float],
        tags: Mapping[str, str],
        files: Mapping[str, bytes],
    ) -> str:
        """Logs a run; the same run again gives the same tracking run id."""
        from mlflow.entities import Metric, Param, RunTag
        from mlflow.exceptions import MlflowException

        client = self._connect()
        now = int(run.create_time.timestamp() * 1000)
        try:
            tracked = self._find_or_create(client, experiment, run, now)
            client.log_batch(
                tracked,
                metrics=[Metric(name, value, now, 0) for name, value in metrics.items()],
                params=[Param(name, value) for name, value in parameters.items()],
                tags=[RunTag(name, value) for name, value in tags.items()],
            )
            with tempfile.TemporaryDirectory() as folder:
                for name, content in files.items():
                    Path(folder, name).write_bytes(content)
                client.log_artifacts(tracked, folder, "plots")
            client.set_terminated(tracked)
        except (MlflowException, OSError) as error:  # those of its HTTP library are OSErrors
            raise Unavailable("MLFLOW_UNAVAILABLE", "MLflow does not take the run") from error
        return tracked

    def warm_up(self) -> None:
        """Imports the library, which takes seconds."""
        self._connect()

    def _connect(self) -> Any:
        from mlflow import MlflowClient

        if self._client is None:
            self._client = MlflowClient(tracking_uri=self._url)
        return self._client

    def _find_or_create(self, client: Any, experiment: str, run: PipelineRun, now: int) -> str:
        known = client.get_experiment_by_name(experiment)
        place = known.experiment_id if known else client.create_experiment(experiment, tags=KIND)
        found = client.search_runs([place], f"tags.`{RUN_TAG}` = '{run.id}'", max_results=1)
        if found:
            return str(found[0].info.run_id)
        tags = {RUN_TAG: run.id, "mlflow.runName": f"{run.window_end:%Y-%m-%d} {run.id[-6:]}"}
        return str(client.create_run(place, start_time=now, tags=tags).info.run_id)


class NoTracking:
    """Where no MLflow is set up: nothing is tracked."""

    def log(
        self,
        experiment: str,  # noqa: ARG002
        run: PipelineRun,  # noqa: ARG002
        parameters: Mapping[str, str],  # noqa: ARG002
        metrics: Mapping[str, float],  # noqa: ARG002
        tags: Mapping[str, str],  # noqa: ARG002
        files: Mapping[str, bytes],  # noqa: ARG002
    ) -> str:
        """Logs nothing."""
        return ""

    def warm_up(self) -> None:
        """Nothing to load."""
