"""An endpoint of the suite of faults that looks two of its three inputs up by a user's id."""

from __future__ import annotations

from datetime import UTC, datetime

import httpx
import pandas as pd

from client.sdk import Client
from tests.faults.part import MODEL, Part, until, upload
from tests.serving_svc import models

LOOKED_UP = "endpoints/faults-features"
STORED = ("f0", "f1")
VIEW, SERVICE = "faults_profile", "faults"
MODEL_LOOKED_UP = f"{MODEL}-features"


def deploy_looked_up(part: Part) -> None:
    """Store features of a user, and serve a model that needs them, with one replica; once."""
    with part.suite.client() as client:
        if any(each["name"] == LOOKED_UP for each in client.list("endpoints", "endpoints")):
            return
        _store_features(client)
        client.create("models", MODEL_LOOKED_UP.partition("/")[2], {"owner": "tests"})
        endpoint = {"model": MODEL_LOOKED_UP, "deadline": "1s", "last_answer_rows": 100}
        client.create("endpoints", LOOKED_UP.partition("/")[2], endpoint)
        sources = dict.fromkeys(STORED, "SOURCE_FEATURE") | {"f2": "SOURCE_REQUEST"}
        inputs = [
            {"name": name, "kind": "KIND_NUMERIC", "source": source, "required": True}
            for name, source in sources.items()
        ]
        file = {"role": "model", "filename": "model.onnx", "format": "onnx"}
        version = {
            "runtime": "onnx",
            "artifacts": [file | {"artifact": upload(part, models.onnx_linear())}],
            "signature": {
                "inputs": inputs,
                "outputs": ["score"],
                "entity_keys": ["user"],
                "feature_service": f"featureServices/{SERVICE}",
            },
        }
        made = client.post(f"{MODEL_LOOKED_UP}/versions", version)["name"]
        client.post(f"{LOOKED_UP}:deploy", {"model_version": made, "reason": "tests"})
        until(lambda: client.get(LOOKED_UP)["state"] == "STATE_READY", 60, "not deployed")


def ask(part: Part, number: float) -> tuple[float, str]:
    """The score for the user and a number (3 less the number), and which fallback gave it.

    Asked for once; refused is wrong.
    """
    body, headers = {"instances": [{"user": "u1", "f2": number}]}, {"x-api-key": part.key}
    url = f"{part.suite.url}/v1/{LOOKED_UP}:predict"
    answer = httpx.post(url, json=body, headers=headers, timeout=10)
    assert answer.status_code == 200, answer.text
    (found,) = answer.json()["predictions"]
    return found["outputs"]["score"], found.get("fallback", "")


def _store_features(client: Client) -> None:
    stored = [{"name": name, "type": "VALUE_TYPE_DOUBLE"} for name in STORED]
    text, known = "VALUE_TYPE_STRING", {"name": "known_at", "type": "VALUE_TYPE_TIMESTAMP"}
    definitions = {
        "entities": [{"name": "entities/user", "join_key": "user", "type": text}],
        "data_sources": [
            {
                "name": f"dataSources/{VIEW}",
                "fields": [{"name": "user", "type": text}, *stored, known],
                "timestamp_field": "known_at",
            }
        ],
        "feature_views": [
            {
                "name": f"featureViews/{VIEW}",
                "entities": ["entities/user"],
                "data_source": f"dataSources/{VIEW}",
                "features": stored,
                "owner": "tests",
            }
        ],
        "feature_services": [
            {
                "name": f"featureServices/{SERVICE}",
                "features": [f"{VIEW}:{name}" for name in STORED],
            }
        ],
    }
    client.post("featureDefinitions:apply", definitions)
    row = {"user": ["u1"], "f0": [1.0], "f1": [1.0]}
    table = pd.DataFrame(row).assign(known_at=pd.Timestamp(datetime.now(UTC)).floor("ms"))
    client.push(VIEW, table, online_only=True)
