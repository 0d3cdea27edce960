"""The SDK against a real HTTP server."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from client import Client, ModelyardError, ProblemError
from client.sdk import arrow_body, local_api_key

Call = tuple[str, str, dict[str, str], Any]


class Gateway:
    """Answers what it was told to, in order, and remembers what it was asked."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.answers: list[tuple[int, Any]] = []
        gateway = self

        class Handler(BaseHTTPRequestHandler):
            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                headers = {key.lower(): value for key, value in self.headers.items()}
                parsed = json.loads(body) if body else None
                gateway.calls.append((self.command, self.path, headers, parsed))
                status, answer = gateway.answers.pop(0)
                content = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = handle_any  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    answering = Gateway()
    thread = threading.Thread(target=answering.server.serve_forever)
    thread.start()
    yield answering
    answering.server.shutdown()
    answering.server.server_close()
    thread.join()


@pytest.fixture
def client(gateway: Gateway) -> Iterator[Client]:
    with Client(gateway.url, "myk_test") as made:
        yield made


def test_a_call_carries_the_key_and_an_idempotency_key(gateway: Gateway, client: Client) -> None:
    gateway.answers = [(200, {"name": "models/m"})]
    assert client.post("models", {"model_id": "m"}) == {"name": "models/m"}
    method, path, headers, body = gateway.calls[0]
    assert (method, path, body) == ("POST", "/v1/models", {"model_id": "m"})
    assert headers["authorization"] == "Bearer myk_test"
    assert headers["idempotency-key"]


def test_a_prediction_is_not_asked_for_twice_once_it_was_sent(
    gateway: Gateway, client: Client
) -> None:
    gateway.answers = []  # it hangs up without an answer
    with pytest.raises(ModelyardError):
        client.predict("e", [{"x": 1}])
    assert len(gateway.calls) == 1
    gateway.answers = [(503, {"reason": "NO_ANSWER"}), (200, {"predictions": [{"outputs": {}}]})]
    assert client.predict("e", [{"x": 1}]) == [{"outputs": {}}]
    assert all("idempotency-key" not in headers for _, _, headers, _ in gateway.calls)


def test_a_retry_repeats_the_idempotency_key(gateway: Gateway, client: Client) -> None:
    gateway.answers = [(503, {"reason": "STARTING"}), (200, {})]
    client.post("models", {})
    keys = {headers["idempotency-key"] for _, _, headers, _ in gateway.calls}
    assert len(gateway.calls) == 2
    assert len(keys) == 1


def test_a_problem_names_reason_and_fields(gateway: Gateway, client: Client) -> None:
    problem = {
        "reason": "MISSING_FIELD",
        "detail": "a field is missing",
        "violations": [{"field": "instances[0].carrier", "description": "must be given"}],
    }
    gateway.answers = [(400, problem)]
    with pytest.raises(ProblemError) as refused:
        client.predict("late-arrival", [{}])
    assert refused.value.status == 400
    assert refused.value.reason == "MISSING_FIELD"
    assert refused.value.violations[0].field == "instances[0].carrier"
    assert "instances[0].carrier" in str(refused.value)


def test_listing_goes_through_all_pages(gateway: Gateway, client: Client) -> None:
    gateway.answers = [
        (200, {"models": [{"name": "a"}], "next_page_token": "t"}),
        (200, {"models": [{"name": "b"}]}),
    ]
    assert [each["name"] for each in client.list("models", "models")] == ["a", "b"]
    assert "page_token=t" in gateway.calls[1][1]


def test_outcomes_and_event_times_travel_as_rfc_3339(gateway: Gateway, client: Client) -> None:
    when = datetime(2013, 4, 1, 12, tzinfo=UTC)
    gateway.answers = [(200, {"accepted_count": 1}), (200, {"predictions": []})]
    assert client.record_outcomes([("p1", 1.0, when)]) == 1
    client.predict("late-arrival", [{"carrier": "UA"}], event_times=[when])
    outcome = gateway.calls[0][3]["outcomes"][0]
    assert outcome == {"prediction_id": "p1", "value": 1.0, "event_time": when.isoformat()}
    assert gateway.calls[1][3]["event_times"] == [when.isoformat()]


def test_waiting_ends_with_the_state_or_in_time(gateway: Gateway, client: Client) -> None:
    gateway.answers = [(200, {"state": "RUNNING"}), (200, {"state": "DONE"})]
    assert client.wait("pipelines/p/runs/r", until=["DONE"])["state"] == "DONE"
    gateway.answers = [(200, {"state": "RUNNING"})]
    with pytest.raises(ModelyardError, match="still RUNNING"):
        client.wait("pipelines/p/runs/r", until=["DONE"], timeout=-1)


def test_no_suite_says_what_to_do() -> None:
    with Client("http://127.0.0.1:9", "k") as client, pytest.raises(ModelyardError, match="up"):
        client.get("models")


def test_tables_travel_as_arrow() -> None:
    import base64

    import pandas as pd
    import pyarrow as pa

    body = arrow_body(pd.DataFrame({"a": [1, 2]}))
    table = pa.ipc.open_stream(base64.b64decode(body["arrow_ipc"])).read_all()
    assert table.column("a").to_pylist() == [1, 2]


def test_the_local_key_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELYARD_HOME", str(tmp_path))
    assert local_api_key() is None
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "admin.key").write_text("myk_abc\n")
    assert local_api_key() == "myk_abc"
