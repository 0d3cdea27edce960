"""What callers get wrong, through the real gateway: a typed problem that names the field."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from client.sdk import Client
from examples.flights.definitions import ENDPOINT, MONITOR
from examples.flights.story import Outcome
from examples.flights.suite import Suite

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(280)]

PREDICT = f"/v1/{ENDPOINT}:predict"
INFER = "/v2/models/late-arrival/infer"
FLIGHT: dict[str, Any] = {
    "carrier": "UA",
    "route": "EWR-IAH",
    "origin": "EWR",
    "tailnum": "N14228",
    "hour": 5,
    "weekday": 1,
    "distance": 1400,
}
WHEN = "2013-07-01T12:00:00Z"


def flight(**changes: Any) -> dict[str, Any]:
    """The flight with changes; `None` leaves a field out."""
    changed = {**FLIGHT, **changes}
    return {name: value for name, value in changed.items() if value is not None}


def body(*instances: Any) -> dict[str, Any]:
    return {"instances": list(instances), "event_times": [WHEN] * len(instances)}


@pytest.fixture(scope="module")
def http(suite: Suite) -> httpx.Client:
    key = suite.key_file.read_text().strip()
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    return httpx.Client(base_url=suite.url, headers=headers, timeout=10)


def check(answer: httpx.Response, status: int, reason: str, field: str) -> dict[str, Any]:
    problem: dict[str, Any] = answer.json()
    assert answer.headers["content-type"].startswith("application/problem+json")
    assert (answer.status_code, problem["status"]) == (status, status), problem
    assert problem["reason"] == reason
    if field:
        assert field in [each["field"] for each in problem["violations"]]
    return problem


@pytest.mark.parametrize(
    ("instance", "status", "reason", "field"),
    [
        (flight(origin="XXX"), 404, "ENTITY_NOT_FOUND", "instances[0].origin"),
        (flight(carrier="??"), 404, "ENTITY_NOT_FOUND", "instances[0].carrier"),
        (flight(distance=None), 400, "FIELD_MISSING", "instances[0].distance"),
        (flight(carrier=None), 400, "FIELD_MISSING", "instances[0].carrier"),
        (flight(hour="five"), 400, "WRONG_TYPE", "instances[0].hour"),
        (flight(carrier=True), 400, "WRONG_TYPE", "instances[0].carrier"),
        (flight(distance=1e300), 400, "OUT_OF_RANGE", "instances[0].distance"),
    ],
)  # fmt: skip
def test_a_wrong_instance(
    http: httpx.Client,
    story: Outcome,
    instance: dict[str, Any],
    status: int,
    reason: str,
    field: str,
) -> None:
    problem = check(http.post(PREDICT, json=body(instance)), status, reason, field)
    for value in ("XXX", "five", "??"):
        assert value not in str(problem), "a problem must not echo what was given"


def test_what_the_model_may_do_without_may_be_unknown(http: httpx.Client, story: Outcome) -> None:
    asked = {**body(flight(tailnum="N0SUCH")), "return_features": True}
    answer = http.post(PREDICT, json=asked)
    assert answer.status_code == 200
    features = answer.json()["predictions"][0]["features"]
    assert features["last_arrival_delay"] is None
    assert features["mean_delay_7d"] is not None


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_numbers_that_are_none(http: httpx.Client, story: Outcome, number: str) -> None:
    text = f'{{"instances": [{{"carrier": "UA", "distance": {number}}}]}}'
    check(http.post(PREDICT, content=text), 400, "NOT_FINITE", "instances[0].distance")


def test_one_bad_instance_refuses_all_and_names_its_place(
    http: httpx.Client, story: Outcome
) -> None:
    answer = http.post(PREDICT, json=body(FLIGHT, flight(hour="x"), flight(weekday=None)))
    problem = check(answer, 400, "WRONG_TYPE", "instances[1].hour")
    assert "instances[2].weekday" in [each["field"] for each in problem["violations"]]


def test_unknown_endpoints(http: httpx.Client, story: Outcome) -> None:
    answer = http.post("/v1/endpoints/no-such:predict", json=body(FLIGHT))
    check(answer, 404, "ENDPOINT_NOT_FOUND", "endpoint")
    tensor = {"name": "hour", "datatype": "FP64", "shape": [1], "data": [5]}
    answer = http.post("/v2/models/no-such/infer", json={"inputs": [tensor]})
    assert answer.status_code == 404


def test_bad_tensors(http: httpx.Client, story: Outcome) -> None:
    tensor = {"name": "hour", "datatype": "FP64", "shape": [2], "data": [5.0]}
    check(http.post(INFER, json={"inputs": [tensor]}), 400, "WRONG_SHAPE", "inputs[0].shape")


@pytest.mark.parametrize("key", ["", "Bearer myk_no.such", "Basic abc"])
def test_a_bad_key(suite: Suite, story: Outcome, key: str) -> None:
    headers = {"authorization": key} if key else {}
    answer = httpx.post(f"{suite.url}{PREDICT}", json=body(FLIGHT), headers=headers)
    problem = answer.json()
    assert (answer.status_code, problem["status"]) == (401, 401)
    assert [each["field"] for each in problem["violations"]] == ["Authorization"]
    assert "www-authenticate" in answer.headers


def test_a_wrong_outcome_names_its_place(http: httpx.Client, story: Outcome) -> None:
    outcomes = [{"prediction_id": "p", "value": 1}, {"prediction_id": "", "value": 1}]
    answer = http.post("/v1/outcomes", json={"outcomes": outcomes})
    check(answer, 400, "INVALID_OUTCOME", "outcomes[1].prediction_id")


def test_a_refused_request_leaves_no_trace(
    http: httpx.Client, client: Client, story: Outcome
) -> None:
    before = settled(client)
    for _ in range(5):
        http.post(PREDICT, json=body(FLIGHT, flight(hour="x")))
    good = http.post(PREDICT, json=body(FLIGHT))
    assert good.status_code == 200
    until_logged(client, before + 1)


def logged(client: Client) -> int:
    report = client.get(f"{MONITOR}/performance", group_by="MONTH")
    return sum(int(each["row_count"]) for each in report["windows"])


def settled(client: Client) -> int:
    """How many rows are logged, once those of earlier tests have come."""
    import time

    found, since = logged(client), time.monotonic()
    while time.monotonic() - since < 2.0:
        time.sleep(0.1)
        if (now := logged(client)) != found:
            found, since = now, time.monotonic()
    return found


def until_logged(client: Client, wanted: int) -> None:
    import time

    deadline = time.monotonic() + 10
    while (found := logged(client)) < wanted and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(0.5)  # a row too many would come now
    assert found == wanted == logged(client)
