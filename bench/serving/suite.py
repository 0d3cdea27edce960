"""What the benchmark sets up in a suite: a model in two versions, and endpoints that split them."""

from __future__ import annotations

import base64
import hashlib
import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from bench.serving.model import FEATURES, Model
from client.sdk import Client

MODEL, LOOKED_UP = "bench", "bench-features"
"""Model (and its endpoint) whose inputs are all in the request; the one that looks most up."""
SERVICE, VIEW = "bench", "bench_profile"
KEY = "user"
"""Routing key of the split, and entity of the features."""
STORED = 20
"""Of `LOOKED_UP`'s 30 inputs, so many come from the online store."""
NAMES = tuple(f"f{index}" for index in range(FEATURES))
_LOADED_S = 120.0

Json = dict[str, Any]


def set_up(client: Client, key: str, versions: tuple[Model, Model]) -> None:
    """Registers the versions and deploys them to two endpoints, half of the traffic each.

    Raises:
        ModelyardError: The suite refuses something, or a version isn't loaded in time.
    """
    _define_features(client, versions[0])
    artifacts = [_upload(client.url, key, each.onnx) for each in versions]
    for name, stored in ((MODEL, 0), (LOOKED_UP, STORED)):
        client.create("models", name, {"owner": "bench"})
        endpoint = {"model": f"models/{name}", "min_replicas": 1, "routing_key": KEY}
        client.create("endpoints", name, endpoint)
        made = [_register(client, name, artifact, stored) for artifact in artifacts]
        for version in made:
            _deploy(client, name, version)
        _split(client, name, made)


def _upload(url: str, key: str, path: Path) -> str:
    content = path.read_bytes()
    lines = []
    for at in range(0, len(content), 1 << 20):
        line: Json = {"chunk": base64.b64encode(content[at : at + (1 << 20)]).decode()}
        if at == 0:
            line["sha256"] = hashlib.sha256(content).hexdigest()
        lines.append(json.dumps(line))
    headers = {"authorization": f"Bearer {key}", "content-type": "application/x-ndjson"}
    body = "\n".join(lines).encode()
    answer = httpx.post(f"{url}/v1/artifacts:write", content=body, headers=headers, timeout=30)
    return str(answer.raise_for_status().json()["name"])


def _register(client: Client, model: str, artifact: str, stored: int) -> str:
    kinds = ["SOURCE_FEATURE"] * stored + ["SOURCE_REQUEST"] * (FEATURES - stored)
    inputs = [
        {"name": name, "kind": "KIND_NUMERIC", "source": kind, "required": True}
        for name, kind in zip(NAMES, kinds, strict=True)
    ]
    signature: Json = {"inputs": inputs, "outputs": ["score"]}
    if stored:
        signature |= {"entity_keys": [KEY], "feature_service": f"featureServices/{SERVICE}"}
    files = [{"role": "model", "filename": "model.onnx", "artifact": artifact, "format": "onnx"}]
    version = {"runtime": "onnx", "artifacts": files, "signature": signature}
    return str(client.post(f"models/{model}/versions", version)["name"])


def _deploy(client: Client, endpoint: str, version: str) -> None:
    body = {"model_version": version, "reason": "benchmark"}
    client.post(f"endpoints/{endpoint}:deploy", body)
    deadline = time.monotonic() + _LOADED_S
    while True:
        found = client.get(f"endpoints/{endpoint}")
        variants = found.get("traffic", {}).get("variants", [])
        serving = [each["model_version"] for each in variants if each.get("weight") == 100]
        if found["state"] == "STATE_READY" and serving == [version]:
            return
        if time.monotonic() > deadline:
            raise TimeoutError(f"{version} is not loaded: {found}")
        time.sleep(0.25)


def _split(client: Client, endpoint: str, versions: list[str]) -> None:
    generation = client.get(f"endpoints/{endpoint}")["traffic"]["generation"]
    variants = [
        {"variant": f"v{index}", "model_version": version, "weight": 50}
        for index, version in enumerate(versions, 1)
    ]
    body = {"generation": generation, "variants": variants, "reason": "benchmark"}
    client.post(f"endpoints/{endpoint}:updateTraffic", body)


def _define_features(client: Client, model: Model) -> None:
    import pandas as pd

    number = "VALUE_TYPE_DOUBLE"
    stored = [{"name": name, "type": number} for name in NAMES[:STORED]]
    key = {"name": KEY, "type": "VALUE_TYPE_STRING"}
    known = {"name": "known_at", "type": "VALUE_TYPE_TIMESTAMP"}
    source = {
        "name": f"dataSources/{VIEW}",
        "fields": [key, *stored, known],
        "timestamp_field": "known_at",
    }
    view = {
        "name": f"featureViews/{VIEW}",
        "entities": [f"entities/{KEY}"],
        "data_source": f"dataSources/{VIEW}",
        "features": stored,
        "owner": "bench",
    }
    service = {
        "name": f"featureServices/{SERVICE}",
        "features": [f"{VIEW}:{name}" for name in NAMES[:STORED]],
    }
    entity = {"name": f"entities/{KEY}", "join_key": KEY, "type": "VALUE_TYPE_STRING"}
    client.post(
        "featureDefinitions:apply",
        {
            "entities": [entity],
            "data_sources": [source],
            "feature_views": [view],
            "feature_services": [service],
        },
    )
    columns = dict(zip(NAMES[:STORED], model.rows.T[:STORED].astype(float), strict=True))
    table = pd.DataFrame({KEY: users(len(model.rows)), **columns})
    table["known_at"] = pd.Timestamp(datetime.now(UTC)).floor("ms")
    client.push(VIEW, table, online_only=True)


def users(count: int) -> list[str]:
    """Entity of each row."""
    return [f"u{index}" for index in range(count)]
