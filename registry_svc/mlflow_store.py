"""Mirrors the record into MLflow's model registry, so that its UI and clients see it.

MLflow's REST API 2.0 is spoken directly: importing the library would cost the process seconds
and 200 MB for six calls.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any

import httpx

from registry_svc.domain import Model, ModelVersion

logger = logging.getLogger(__name__)

API = "/api/2.0/mlflow/"
TIMEOUT = 10.0
RETRY_MOST = 30.0
VERSION_TAG = "modelyard.version"

Snapshot = Callable[[], Sequence[tuple[Model, Sequence[ModelVersion]]]]
"""Reads all models with their versions, oldest first."""


class MlflowRegistry:
    """MLflow's registered models over REST."""

    def __init__(self, url: str) -> None:
        self._http = httpx.Client(base_url=url, timeout=TIMEOUT)

    def mirror(self, model: Model, versions: Sequence[ModelVersion]) -> None:
        """Makes what is missing and moves the aliases; doing it again changes nothing."""
        self._ensure_model(model)
        known = self._known_versions(model.id)
        for version in versions:
            if str(version.number) not in known:
                known[str(version.number)] = self._create_version(version)
        for alias, number in model.aliases.items():
            self._post(
                "registered-models/alias",
                {"name": model.id, "alias": alias, "version": known[str(number)]},
            )

    def _ensure_model(self, model: Model) -> None:
        try:
            self._post(
                "registered-models/create", {"name": model.id, "description": model.description}
            )
        except httpx.HTTPStatusError as error:
            if error.response.json().get("error_code") != "RESOURCE_ALREADY_EXISTS":
                raise

    def _known_versions(self, model_id: str) -> dict[str, str]:
        """Maps our version numbers to MLflow's."""
        known: dict[str, str] = {}
        token = ""
        while True:
            params: dict[str, str | int] = {
                "filter": f"name='{model_id}'",
                "max_results": 200,
                "page_token": token,
            }
            answer = self._http.get(f"{API}model-versions/search", params=params)
            answer.raise_for_status()
            page = answer.json()
            for each in page.get("model_versions", []):
                tags = {tag["key"]: tag["value"] for tag in each.get("tags", [])}
                if VERSION_TAG in tags:
                    known[tags[VERSION_TAG]] = each["version"]
            token = page.get("next_page_token", "")
            if not token:
                return known

    def _create_version(self, version: ModelVersion) -> str:
        run = version.lineage.tracking_run_id
        body: dict[str, Any] = {
            "name": version.model,
            "source": f"runs:/{run}/model" if run else f"modelyard:/{version.name}",
            "description": version.description,
            "tags": [
                {"key": VERSION_TAG, "value": str(version.number)},
                {"key": "modelyard.gate", "value": version.gate.outcome.value},
            ],
        }
        if run:
            body["run_id"] = run
        created = self._post("model-versions/create", body)
        return str(created["model_version"]["version"])

    def _post(self, call: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = self._http.post(f"{API}{call}", json=body)
        answer.raise_for_status()
        parsed: dict[str, Any] = answer.json()
        return parsed

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()


class MlflowMirror:
    """Keeps MLflow in step, on a thread of its own; the record never waits for it."""

    def __init__(self, mlflow: MlflowRegistry, snapshot: Snapshot) -> None:
        self._mlflow = mlflow
        self._snapshot = snapshot
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mlflow-mirror", daemon=True)
        self._wake.set()

    def start(self) -> None:
        """Begins to mirror."""
        self._thread.start()

    def stop(self) -> None:
        """Ends; what is missing is mirrored by the next start."""
        self._stopping.set()
        self._wake.set()
        self._thread.join(timeout=2.0)
        self._mlflow.close()

    def notify(self) -> None:
        """Says that the record has changed."""
        self._wake.set()

    def _run(self) -> None:
        pause = 1.0
        while not self._stopping.is_set():
            self._wake.wait()
            self._wake.clear()
            if self._stopping.is_set():
                return
            try:
                for model, versions in self._snapshot():
                    self._mlflow.mirror(model, versions)
                pause = 1.0
            except httpx.HTTPError as error:
                logger.warning("MLflow does not take the mirror", extra={"error": str(error)})
                self._wake.set()
                self._stopping.wait(pause)
                pause = min(2 * pause, RETRY_MOST)
