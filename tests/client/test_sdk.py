"""The SDK against a real HTTP server."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from modelyard.serving.v1 import predictions_pb2
from rich.console import Console
from typer.testing import CliRunner

from client import Client, ModelyardError, ProblemError, cli
from client.sdk import arrow_body, local_api_key
from gateway.transcoder.codec import codec_of
from tests.client.gateway import Gateway


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


def test_a_routing_key_travels_beside_the_rows(gateway: Gateway, client: Client) -> None:
    gateway.answers = [(200, {"predictions": []}), (200, {"outputs": []})]
    client.predict("e", [{"x": 1}], routing_key="Zoë")
    client.infer("e", {"x": ("FP64", [1.0])}, routing_key="ann")
    (*_, headers, _), (*_, body) = gateway.calls
    assert headers["x-routing-key"].encode("latin-1") == "Zoë".encode()
    assert body["parameters"] == {"routing_key": "ann"}


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


@pytest.mark.parametrize(
    ("collection", "parameter"),
    [
        ("models", "model_id"),
        ("dataSources", "data_source_id"),
        ("endpoints/late/streamScorers", "stream_scorer_id"),
    ],
)
def test_a_resource_is_created_under_its_id(
    gateway: Gateway, client: Client, collection: str, parameter: str
) -> None:
    gateway.answers = [(200, {})]
    client.create(collection, "x", {"description": "d"})
    assert gateway.calls[0][:2] == ("POST", f"/v1/{collection}?{parameter}=x")


def compared() -> dict[str, Any]:
    """An answer as the gateway writes it."""
    message = predictions_pb2.CompareShadowsResponse(
        comparisons=[
            {
                "variant": "v2",
                "model_version": "models/m/versions/2",
                "answered_variant": "v1",
                "answered_version": "models/m/versions/1",
                "rows": 1234,
                "class_agreement": 0.975,
                "exact_agreement": 0.5,
                "mean_difference": 0.0125,
                "mean_difference_lower": 0.01,
                "mean_difference_upper": 0.015,
                "rmse": 0.05,
                "spearman": 0.875,
                "failures": 3,
                "latency": {"p50_us": 1500},
            },
            {"variant": "v3", "answered_variant": "v1", "failures": 7},
        ],
        start_time={"seconds": 1_767_225_600},
        truncated=True,
    )
    codec = codec_of(predictions_pb2.CompareShadowsResponse.DESCRIPTOR)
    found: dict[str, Any] = json.loads(json.dumps(codec.encode(message)))
    return found


def test_shadows_are_compared(gateway: Gateway, client: Client) -> None:
    gateway.answers = [(200, compared()), (200, {})]
    when = datetime(2026, 1, 1, tzinfo=UTC)
    found = client.compare_shadows("late", start=when, threshold=0.3)
    assert found["comparisons"][0]["class_agreement"] == 0.975
    client.compare_shadows("late")
    assert gateway.calls[0][1] == (
        "/v1/endpoints/late:compareShadows"
        "?start_time=2026-01-01T00%3A00%3A00%2B00%3A00&threshold=0.3"
    )
    assert gateway.calls[1][1] == "/v1/endpoints/late:compareShadows"


def test_the_command_shows_shadows_as_a_table(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODELYARD_URL", gateway.url)
    monkeypatch.setattr(cli, "out", Console(width=200))
    gateway.answers = [(200, compared()), (200, compared())]
    shown = CliRunner().invoke(cli.app, ["shadows", "late", "--hours", "2"])
    assert shown.exit_code == 0, shown.output
    wanted = ["v2", "v1", "1234", "97.50%", "50.00%", "0.0125", "0.01,", "0.015", "0.05", "0.875"]
    assert all(each in shown.output for each in [*wanted, "1.50", "v3"])
    assert "more rows" in shown.output
    printed = CliRunner().invoke(cli.app, ["shadows", "late", "--json"])
    assert json.loads(printed.output) == compared()


def test_an_endpoint_that_is_ready_has_reached_the_gateway(
    gateway: Gateway, client: Client
) -> None:
    """Serving says so a moment before."""
    ready: Any = {"state": "STATE_READY"}
    gateway.answers = [(200, ready), (404, {}), (200, ready), (503, {}), (200, ready), (200, {})]
    assert client.wait("endpoints/late", until=["STATE_READY"]) == ready
    asked = [call[1] for call in gateway.calls]
    assert asked == ["/v1/endpoints/late", "/v2/models/late/ready"] * 3
    gateway.answers = [(200, {"state": "STATE_DEGRADED"})]
    assert client.wait("endpoints/late", until=["STATE_DEGRADED"])["state"] == "STATE_DEGRADED"
    gateway.answers = [(200, ready), (404, {})]
    with pytest.raises(ModelyardError, match="STATE_READY, and not yet at the gateway"):
        client.wait("endpoints/late", until=["STATE_READY"], timeout=-1)
    gateway.answers = [(200, ready), (403, {})]  # the key may not ask: then it is as serving says
    assert client.wait("endpoints/late", until=["STATE_READY"]) == ready
