"""REST in, gRPC out, through a real gRPC server."""

from __future__ import annotations

import base64
import json

import pytest

from tests.gateway.conftest import Suite


def test_get_binds_the_path_and_answers_in_snake_case(suite: Suite) -> None:
    answer = suite.get("/v1/models/delay")
    assert answer.status_code == 200
    assert answer.json()["name"] == "models/delay"
    assert answer.json()["tags"] == {"team": "ops"}
    assert answer.headers["x-request-id"]


def test_an_additional_binding_leads_to_the_same_method(suite: Suite) -> None:
    suite.get("/v1/models/m/aliases/champion")
    assert suite.registry.asks[-1].name == "models/m/aliases/champion"


def test_query_parameters_fill_fields(suite: Suite) -> None:
    assert suite.get("/v1/models?page_size=5&pageToken=t").status_code == 200
    assert (suite.registry.asks[-1].page_size, suite.registry.asks[-1].page_token) == (5, "t")


def test_body_field_query_and_idempotency_key(suite: Suite) -> None:
    answer = suite.post(
        "/v1/models?model_id=late",
        {"description": "d"},
        headers={"idempotency-key": "k-1"},
    )
    assert answer.json()["name"] == "models/late"
    ask = suite.registry.asks[-1]
    assert (ask.model.description, ask.model_id, ask.request_id) == ("d", "late", "k-1")


def test_patch_implies_the_mask_and_takes_a_given_one(suite: Suite) -> None:
    suite.call("PATCH", "/v1/models/a", {"description": "d", "owner": "o"})
    assert list(suite.registry.asks[-1].update_mask.paths) == ["description", "owner"]
    assert suite.registry.asks[-1].model.name == "models/a"
    suite.call("PATCH", "/v1/models/a?update_mask=description", {"description": "d", "owner": "o"})
    assert list(suite.registry.asks[-1].update_mask.paths) == ["description"]


def test_delete_answers_an_empty_object(suite: Suite) -> None:
    assert suite.call("DELETE", "/v1/models/a/aliases/b").json() == {}


def test_the_caller_and_the_deadline_travel(suite: Suite) -> None:
    suite.get("/v1/models/a", headers={"request-timeout": "2.5"})
    assert suite.registry.callers[-1].principal == "users/admin"
    assert suite.registry.callers[-1].scopes == {"*"}
    assert 1 < suite.registry.deadlines[-1] < 3
    suite.get("/v1/models/a")
    assert 25 < suite.registry.deadlines[-1] < 31


def test_a_stream_of_answers_is_ndjson(suite: Suite) -> None:
    answer = suite.get("/v1/artifacts/abc:read")
    assert answer.headers["content-type"] == "application/x-ndjson"
    chunks = [base64.b64decode(json.loads(line)["chunk"]) for line in answer.text.splitlines()]
    assert chunks == [b"one", b"two"]


def test_a_stream_that_fails_late_ends_in_an_error_line(suite: Suite) -> None:
    suite.registry.stream_error = True
    lines = suite.get("/v1/artifacts/abc:read").text.splitlines()
    assert len(lines) == 3
    assert json.loads(lines[-1])["error"]["reason"] == "DISK_BUSY"


def test_a_stream_that_fails_at_once_is_a_problem(suite: Suite) -> None:
    answer = suite.get("/v1/artifacts/none:read")
    assert (answer.status_code, answer.json()["reason"]) == (404, "ARTIFACT_NOT_FOUND")


def test_an_upload_is_read_line_by_line(suite: Suite) -> None:
    suite.registry.chunks.clear()
    lines = [json.dumps({"chunk": base64.b64encode(bytes([i]) * 9).decode()}) for i in range(5)]
    answer = suite.post("/v1/artifacts:write", content="\n".join(lines).encode() + b"\n\n")
    assert answer.status_code == 200, answer.text
    assert suite.registry.chunks == [bytes([i]) * 9 for i in range(5)]


@pytest.mark.parametrize(
    ("body", "status", "reason", "field"),
    [
        (b'{"chunk": "AA=="}\n{"chunk": 5}', 400, "WRONG_TYPE", "lines[1].chunk"),
        (b'{"chunk": "AA=="}\n{"x": 5}', 400, "UNKNOWN_FIELD", "lines[1].x"),
        (b"{", 400, "MALFORMED_JSON", None),
        (b"x" * 3_000_000, 400, "LINE_TOO_LONG", None),
        (b"\n" * 6_000_000, 413, "BODY_TOO_LARGE", None),
    ],
)
def test_a_wrong_upload_is_refused(
    suite: Suite, body: bytes, status: int, reason: str, field: str | None
) -> None:
    answer = suite.post("/v1/artifacts:write", content=body)
    assert (answer.status_code, answer.json()["reason"]) == (status, reason)
    assert [each["field"] for each in answer.json()["violations"]] == ([field] if field else [])


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "reason", "field"),
    [
        ("GET", "/v1/models/none", None, 404, "MODEL_NOT_FOUND", "name"),
        ("GET", "/v1/models/busy", None, 429, "QUOTA", None),
        ("GET", "/v1/models/bug", None, 500, "INTERNAL", None),
        ("GET", "/v1/nothing", None, 404, "ROUTE_NOT_FOUND", None),
        ("GET", "/v1/models/%2e%2e%2fx", None, 404, "ROUTE_NOT_FOUND", None),
        ("GET", "/v1/models/%ff", None, 404, "ROUTE_NOT_FOUND", None),
        ("GET", "/v1/models/a:nonsense", None, 404, "ROUTE_NOT_FOUND", None),
        ("DELETE", "/v1/models", None, 405, "METHOD_NOT_ALLOWED", None),
        ("GET", "/v1/models?page_size=x", None, 400, "WRONG_TYPE", "page_size"),
        ("GET", "/v1/models?page_size=1&page_size=2", None, 400, "DUPLICATE_FIELD", "page_size"),
        ("GET", "/v1/models?nope=1", None, 400, "UNKNOWN_PARAMETER", "nope"),
        ("GET", "/v1/models?%00=1", None, 400, "UNKNOWN_PARAMETER", "?"),
        ("GET", "/v1/models?a=%ff", None, 400, "MALFORMED_QUERY", None),
        ("GET", "/v1/models/a?name=b", None, 400, "UNKNOWN_PARAMETER", "name"),
        ("GET", "/v1/pipelines", None, 501, "AREA_NOT_CONFIGURED", None),
        ("POST", "/v1/models", {"nope": 1}, 400, "UNKNOWN_FIELD", "model.nope"),
        ("POST", "/v1/models", {"<script>": 1}, 400, "UNKNOWN_FIELD", "model.?"),
        ("POST", "/v1/models", {"tags": {"a": 1}}, 400, "WRONG_TYPE", "model.tags.a"),
        ("POST", "/v1/models", {"description": 1}, 400, "WRONG_TYPE", "model.description"),
        ("POST", "/v1/models", [], 400, "WRONG_TYPE", "model"),
        (
            "POST",
            "/v1/models/a/versions/1:transition",
            {"name": "models/b/versions/1"},
            400,
            "CONFLICTING_FIELD",
            "name",
        ),
    ],
)
def test_problems_name_the_field_and_echo_nothing(
    suite: Suite, method: str, path: str, body: object, status: int, reason: str, field: str | None
) -> None:
    answer = suite.call(method, path, body)
    problem = answer.json()
    assert (answer.status_code, problem["reason"]) == (status, reason), problem
    assert answer.headers["content-type"] == "application/problem+json"
    assert problem["status"] == status
    assert problem["type"] == f"urn:modelyard:problem:{reason.lower().replace('_', '-')}"
    assert problem["request_id"] == answer.headers["x-request-id"]
    assert problem["trace_id"]
    assert [each["field"] for each in problem["violations"]] == ([field] if field else [])
    assert "secret text" not in answer.text
    assert "<" not in answer.text


def test_retry_after_and_allow(suite: Suite) -> None:
    assert suite.get("/v1/models/busy").headers["retry-after"] == "7"
    assert "GET" in suite.call("DELETE", "/v1/models").headers["allow"]


@pytest.mark.parametrize(
    ("headers", "content", "status", "reason"),
    [
        ({"content-type": "text/plain"}, b"{}", 415, "UNSUPPORTED_MEDIA_TYPE"),
        ({"content-type": "application/json"}, b"{", 400, "MALFORMED_JSON"),
        ({"content-type": "application/json"}, b'{"description": NaN}', 400, "NOT_FINITE"),
        ({"content-type": "application/json"}, b"x" * 100_001, 413, "BODY_TOO_LARGE"),
        ({"request-timeout": "-1"}, b"{}", 400, "INVALID_TIMEOUT"),
        ({"request-timeout": "301"}, b"{}", 400, "INVALID_TIMEOUT"),
        ({"request-timeout": "nan"}, b"{}", 400, "INVALID_TIMEOUT"),
        ({"idempotency-key": "a b"}, b"{}", 400, "INVALID_IDEMPOTENCY_KEY"),
    ],
)
def test_wrong_headers_and_bodies(
    suite: Suite, headers: dict[str, str], content: bytes, status: int, reason: str
) -> None:
    answer = suite.post("/v1/models", headers=headers, content=content)
    assert (answer.status_code, answer.json()["reason"]) == (status, reason)


def test_too_many_at_once_are_refused(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suite.gateway.app, "_most", 0)
    answer = suite.get("/v1/models/a")
    assert (answer.status_code, answer.json()["reason"]) == (503, "OVERLOADED")
    assert answer.headers["retry-after"] == "1"
    assert suite.get("/healthz").status_code == 200


def test_a_given_request_id_and_trace_are_kept(suite: Suite) -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    headers = {"x-request-id": "r-1", "traceparent": f"00-{trace}-b7ad6b7169203331-01"}
    problem = suite.get("/v1/models/none", headers=headers).json()
    assert (problem["request_id"], problem["trace_id"]) == ("r-1", trace)
