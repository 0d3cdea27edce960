"""A stream scorer on a whole suite: events in, results out, each of them in the prediction log."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from client.errors import ProblemError
from client.sdk import Client
from examples.flights.definitions import ENDPOINT
from examples.flights.story import Outcome
from tests.e2e.test_wrong_input import FLIGHT, WHEN

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(280)]

EVENTS = 300


@pytest.fixture
def streams(streams_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(streams_url, decode_responses=True) as made:
        yield made


def until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)


def test_events_in_results_out(client: Client, story: Outcome, streams: redis.Redis) -> None:
    made = client.create(f"{ENDPOINT}/streamScorers", "taxiing", {"source_stream": "taxiing"})
    name = made["name"]
    assert client.post(f"{name}:pause")["state"] == "STATE_PAUSED"
    time.sleep(2.0)  # every process has seen that by then
    for number in range(EVENTS):
        flight = {**FLIGHT, "hour": None if number % 100 == 0 else number % 24}
        event = {"id": f"e{number}", "time": WHEN, "data": json.dumps(flight)}
        streams.xadd(made["source_key"], event)
    waiting = client.get(name)["progress"]
    assert (waiting["lag"], waiting["read_count"]) == (str(EVENTS), "0")
    client.post(f"{name}:resume")
    until(lambda: client.get(name)["progress"]["read_count"] == str(EVENTS))
    until(lambda: client.get(name)["progress"]["pending_count"] == "0")
    results = [fields for _, fields in streams.xrange(made["result_key"])]
    dead = [fields for _, fields in streams.xrange(made["dead_letter_key"])]
    assert sorted(each["id"] for each in results) == sorted(
        f"e{n}" for n in range(EVENTS) if n % 100
    )
    assert {(each["id"], each["reason"], each["field"]) for each in dead} == {
        (f"e{n}", "FIELD_MISSING", "hour") for n in range(0, EVENTS, 100)
    }
    answer = json.loads(results[-1]["data"])
    logged = client.get(f"predictions/{answer['prediction_id']}")
    assert same(logged, answer)
    assert logged["score"] == pytest.approx(next(iter(answer["outputs"].values())))
    client.call("DELETE", f"/v1/{name}")
    with pytest.raises(ProblemError, match="STREAM_SCORER_NOT_FOUND"):
        client.get(name)
    until(lambda: streams.xinfo_groups(made["source_key"]) == [])


def same(logged: dict[str, Any], answer: dict[str, Any]) -> bool:
    """Whether the log says of a prediction what the result said."""
    names = ("endpoint", "variant", "model_version")
    told = [answer[name] for name in names]
    generation = str(answer["table_generation"]) == logged["table_generation"]
    return generation and [logged[name] for name in names] == told
