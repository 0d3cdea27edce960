"""OpenAPI, reference, console, health and metrics."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import Any

import jsonschema
import orjson
from modelyard.serving.v1 import serving_pb2

from gateway.openapi import build_document
from gateway.openapi.comments import comment
from gateway.openapi.operations import open_path
from gateway.transcoder.codec import codec_of
from gateway.transcoder.contracts import load_contracts, published_methods
from tests.gateway.conftest import Suite

METHODS = list(published_methods(load_contracts()))
DOCUMENT = build_document(METHODS, "v1")


def references(value: Any) -> set[str]:
    if isinstance(value, dict):
        found = {value["$ref"]} if "$ref" in value else set()
        return found.union(*(references(each) for each in value.values()))
    if isinstance(value, list):
        return set[str]().union(*(references(each) for each in value))
    return set()


def test_every_rule_is_an_operation_with_a_name_of_its_own() -> None:
    ids = [op["operationId"] for item in DOCUMENT["paths"].values() for op in item.values()]
    assert len(ids) == len(set(ids))
    for method in METHODS:
        for binding in method.bindings:
            path, parameters = open_path(binding)
            operation = DOCUMENT["paths"][path][binding.http_method.lower()]
            assert operation["summary"], path
            assert operation["security"][0]["bearer"] == [method.scope]
            names = re.findall(r"\{(\w+)\}", path)
            assert [each["name"] for each in parameters] == names


def test_paths_read_well() -> None:
    assert "/v1/models/{model}/versions/{version}" in DOCUMENT["paths"]
    assert "/v1/models/{model}/aliases/{alias}" in DOCUMENT["paths"]
    assert "/v1/featureServices/{feature_service}:read" in DOCUMENT["paths"]
    assert "/v2/models/{name}/infer" in DOCUMENT["paths"]


def test_references_lead_somewhere() -> None:
    for reference in references(DOCUMENT):
        found: Any = DOCUMENT
        for part in reference.removeprefix("#/").split("/"):
            found = found[part]
        assert found


def test_everything_is_described() -> None:
    for method in METHODS:
        assert comment(f"{method.descriptor.containing_service.full_name}.{method.descriptor.name}")
    for name, schema in DOCUMENT["components"]["schemas"].items():
        assert schema["description"], name
        for field, each in schema["properties"].items():
            if name != "Problem":
                assert each.get("description"), f"{name}.{field}"


def test_schemas_describe_what_is_sent() -> None:
    endpoint = serving_pb2.Endpoint(name="endpoints/e", default_outputs=[0.5])
    endpoint.traffic.generation = 2**60
    endpoint.traffic.variants.add(variant="v1", weight=100)
    endpoint.create_time.GetCurrentTime()
    schema = {
        "$ref": "#/components/schemas/serving.v1.Endpoint",
        "components": DOCUMENT["components"],
    }
    document = orjson.loads(orjson.dumps(codec_of(endpoint.DESCRIPTOR).encode(endpoint)))
    jsonschema.Draft202012Validator(schema).validate(document)
    assert document["traffic"]["generation"] == str(2**60)


def test_the_document_is_served_and_written_alike(suite: Suite) -> None:
    served = suite.get("/openapi.json", key="").json()
    command = [sys.executable, "-m", "gateway.openapi"]
    written = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    served["info"]["version"] = written["info"]["version"]
    assert served == written


def test_pages_need_nothing_from_elsewhere(suite: Suite) -> None:
    for path in ("/", "/docs"):
        answer = suite.get(path, key="")
        assert answer.status_code == 200
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        sources = re.findall(r'(?:src|href)="([^"]+)"', answer.text)
        outside = [s for s in sources if s.startswith(("http", "//"))]
        assert outside == (["http://127.0.0.1:5005"] if path == "/" else [])
        assert '<html lang="en">' in answer.text
    sizes = [len(suite.get(path).content) for path in ("/", "/console.js", "/console.css")]
    assert sum(sizes) < 20_000
    assert 'id="serving.v1.Endpoint"' in suite.get("/docs").text


def test_health_names_every_dependency(suite: Suite) -> None:
    assert suite.get("/healthz", key="").json() == {"status": "alive"}
    answer = suite.get("/readyz", key="")
    report = answer.json()
    assert answer.status_code == 200
    assert report["status"] == "degraded"  # there is no Redis behind this gateway
    assert set(report["dependencies"]) == {
        *("database", "streams", "data plane"),
        *("registry", "features", "serving"),
    }
    assert report["dependencies"]["streams"] == {"ok": False, "error": "Unavailable"}
    assert report["dependencies"]["database"]["ok"]


def test_metrics_by_route(suite: Suite) -> None:
    suite.get("/v1/models/a")
    suite.get("/v1/models/none")
    text = suite.get("/metrics").text
    assert 'http_requests_total{method="GET",route="/v1/{name=models/*}",status="200"}' in text
    assert 'http_requests_total{method="GET",route="/v1/{name=models/*}",status="404"}' in text
    assert suite.get("/metrics", key="").status_code == 401


def test_odd_requests_are_problems(suite: Suite) -> None:
    for method, path, status in (
        ("GET", "/nope", 404),
        ("POST", "/docs", 405),
        ("GET", "/v2/health/nope", 404),
        ("GET", "/v10/models", 404),
    ):
        answer = suite.call(method, path)
        assert (answer.status_code, answer.headers["content-type"]) == (
            status,
            "application/problem+json",
        )
