"""Who answers: the split, its fallbacks, and what is refused."""

from __future__ import annotations

import asyncio
import time
from collections import Counter

import pytest

from gateway.dataplane.assignment import bucket
from tests.gateway import tables
from tests.gateway.asking import GOOD, PREDICT, ask, split
from tests.gateway.conftest import Suite
from tests.gateway.fakes import const, total


def test_the_split_is_sticky_and_as_the_weights_say(suite: Suite) -> None:
    one, two = suite.replica(const(1)), suite.replica(const(2))
    split(
        suite,
        tables.variant("v1", 7_000),
        tables.variant("v2", 3_000),
        replicas={"v1": one.address, "v2": two.address},
        routing_key="user",
        overrides={"boss": "v2"},
    )
    body = {"instances": [{"x0": 1, "x1": 1, "user": f"u{i}"} for i in range(500)]}
    first, second = (
        [
            each["variant"]
            for each in suite.post("/v1/endpoints/ab:predict", body).json()["predictions"]
        ]
        for _ in range(2)
    )
    assert first == second
    assert first == ["v1" if bucket("s", f"u{i}") < 7_000 else "v2" for i in range(500)]
    assert 300 < Counter(first)["v1"] < 400
    assert ask(suite, user="boss")[0]["variant"] == "v2"
    assert ask(suite, user=5)[0]["variant"] == ask(suite, user="5")[0]["variant"]
    batches = suite.predictions(2)
    assert {batch.batch.variant for batch in batches} == {"v1", "v2"}
    units = [unit for batch in batches for unit in batch["unit_id"]]
    assert set(units) >= {"u0", "u1", "u499"}


def test_without_a_unit_a_request_is_drawn_as_a_whole(suite: Suite) -> None:
    one, two = suite.replica(const(1)), suite.replica(const(2))
    halves = tables.variant("v1", 5_000), tables.variant("v2", 5_000)
    replicas = {"v1": one.address, "v2": two.address}
    split(suite, *halves, replicas=replicas, routing_key="user")
    answers = [{each["variant"] for each in ask(suite, count=8)} for _ in range(24)]
    assert {len(variants) for variants in answers} == {1}
    assert set.union(*answers) == {"v1", "v2"}
    # A unit in one row makes rows of the request: those without one are their own.
    body = {"instances": [{"x0": 1, "x1": 1, "user": "u"}, *[{"x0": 1, "x1": 1}] * 40]}
    mixed = suite.post("/v1/endpoints/ab:predict", body).json()["predictions"]
    assert {each["variant"] for each in mixed[1:]} == {"v1", "v2"}


def test_where_an_experiment_runs_each_row_is_drawn(suite: Suite) -> None:
    """Its statistics count rows, which one draw for all would make one observation."""
    one, two = suite.replica(const(1)), suite.replica(const(2))
    halves = tables.variant("v1", 5_000), tables.variant("v2", 5_000)
    replicas = {"v1": one.address, "v2": two.address}
    split(suite, *halves, replicas=replicas, experiment="experiments/e", arms=["v1", "v2"])
    assert {each["variant"] for each in ask(suite, count=40)} == {"v1", "v2"}


def test_a_failing_variant_falls_back_to_the_champion(suite: Suite) -> None:
    one, two = suite.replica(const(1)), suite.replica(const(2))
    two.error = "MODEL_FAILED"
    split(
        suite,
        tables.variant("v1", 0),
        tables.variant("v2", 10_000),
        replicas={"v1": one.address, "v2": two.address},
    )
    (prediction,) = ask(suite)
    assert (prediction["outputs"], prediction["variant"]) == ({"y": 1.0}, "v1")
    assert prediction["fallback"] == "champion"
    (batch,) = suite.predictions()
    assert (batch.batch.variant, batch["fallback"]) == ("v1", ["champion"])


@pytest.mark.parametrize("raw", [b"", b"1234567", b"\x00\x00\xc0\x7f"])
def test_senseless_outputs_are_failures(suite: Suite, raw: bytes) -> None:
    one = suite.replica(const(1))
    one.raw = raw
    split(
        suite,
        tables.variant("v1", 10_000),
        replicas={"v1": one.address},
        default_outputs=[0.5],
    )
    (prediction,) = ask(suite)
    assert (prediction["outputs"], prediction["fallback"]) == ({"y": 0.5}, "default")
    assert (prediction["variant"], prediction["model_version"]) == ("", "")
    (batch,) = suite.predictions()
    assert batch["fallback"] == ["default"]


def test_nobody_and_nothing_to_answer(suite: Suite) -> None:
    split(suite, tables.variant("v1", 10_000), replicas={})
    answer = suite.post("/v1/endpoints/ab:predict", {"instances": [{"x0": 1, "x1": 1}]})
    assert (answer.status_code, answer.json()["reason"]) == (503, "NO_ANSWER")
    assert answer.json()["metadata"]["cause"] == "NO_REPLICA"
    assert answer.headers["retry-after"] == "1"
    assert suite.events == []


def test_too_slow_is_a_deadline(suite: Suite) -> None:
    slow = suite.replica(const(1), delay=1.0)
    split(suite, tables.variant("v1", 10_000), replicas={"v1": slow.address}, deadline_ms=100)
    began = time.monotonic()
    answer = suite.post("/v1/endpoints/ab:predict", {"instances": [{"x0": 1, "x1": 1}]})
    assert time.monotonic() - began < 0.5
    assert (answer.status_code, answer.json()["reason"]) == (504, "DEADLINE_EXCEEDED")


def test_a_store_that_is_away_uses_the_default(suite: Suite) -> None:
    replica = suite.replica(total)
    suite.push(
        tables.route(
            "late",
            tables.variant("v1", 10_000, of=tables.signature()),
            default_outputs=[0.25],
        ),
        v1=replica.address,
    )
    suite.features.away = True
    (prediction,) = suite.post(PREDICT, {"instances": [GOOD]}).json()["predictions"]
    assert (prediction["outputs"], prediction["fallback"]) == ({"late": 0.25}, "default")


def test_load_is_shed_beyond_the_limit(suite: Suite) -> None:
    slow = suite.replica(const(1), delay=0.1)
    split(suite, tables.variant("v1", 10_000), replicas={"v1": slow.address}, max_in_flight=2)

    async def burst() -> list[int]:
        headers = {"authorization": f"Bearer {suite.key}"}
        body = {"instances": [{"x0": 1, "x1": 1}]}
        asks = (
            suite.client.post("/v1/endpoints/ab:predict", json=body, headers=headers)
            for _ in range(6)
        )
        return [answer.status_code for answer in await asyncio.gather(*asks)]

    assert Counter(suite.run(burst())) == {200: 2, 503: 4}
