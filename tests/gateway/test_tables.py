"""Traffic tables that change, and services that are away."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from tests.gateway import tables
from tests.gateway.asking import ask, split
from tests.gateway.conftest import Suite
from tests.gateway.fakes import const


def test_changing_the_table_under_load_fails_nothing(suite: Suite) -> None:
    one, two = suite.replica(const(1)), suite.replica(const(2))
    replicas = {"v1": one.address, "v2": two.address}
    split(suite, tables.variant("v1", 10_000), replicas={"v1": one.address})

    async def load(answers: list[Any]) -> None:
        headers = {"authorization": f"Bearer {suite.key}"}
        body = {"instances": [{"x0": 1, "x1": 1}]}
        while not answers or answers[-1] is not None:
            answer = await suite.client.post("/v1/endpoints/ab:predict", json=body, headers=headers)
            assert answer.status_code == 200
            answers.append(answer.json())

    async def change() -> Counter[Any]:
        answers: list[Any] = []
        work = asyncio.create_task(load(answers))
        for generation in range(10, 30):
            suite.revision += 1
            weight = 10_000 * (generation % 2)
            table = tables.route(
                "ab",
                tables.variant("v1", weight),
                tables.variant("v2", 10_000 - weight),
                generation=generation,
            )
            suite.data_plane.push(tables.state(suite.revision, table, **replicas))
            await asyncio.sleep(0.02)
        answers.append(None)
        await asyncio.sleep(0.05)
        work.cancel()
        return Counter(
            (
                each["table_generation"],
                each["predictions"][0]["variant"],
                each["predictions"][0]["fallback"],
            )
            for each in answers
            if each
        )

    seen = suite.run(change())
    assert len(seen) > 10
    for generation, variant, fallback in seen:
        assert fallback == ""
        expected = "v1" if int(generation) % 2 or generation == "3" else "v2"
        assert variant == expected


def test_a_table_that_makes_no_sense_is_refused(suite: Suite) -> None:
    one = suite.replica(const(1))
    split(suite, tables.variant("v1", 10_000), replicas={"v1": one.address})
    before = suite.gateway.plane.state.revision
    bad = tables.state(99, tables.route("ab", tables.variant("v1", 9_000)), v1=one.address)
    suite.data_plane.push(bad)
    split(suite, tables.variant("v1", 10_000), replicas={"v1": one.address})
    assert suite.gateway.plane.state.revision == before + 1
    assert ask(suite)[0]["variant"] == "v1"


def test_the_last_state_stays_when_serving_is_away(suite: Suite) -> None:
    one = suite.replica(const(1))
    split(suite, tables.variant("v1", 10_000), replicas={"v1": one.address})
    suite.data_plane.hang_up()
    suite.until(lambda: not suite.gateway.watcher.watching)
    assert ask(suite)[0]["outputs"] == {"y": 1.0}
    split(suite, tables.variant("v1", 10_000), replicas={"v1": one.address})
    assert suite.gateway.watcher.watching


def test_predictions_go_on_without_the_streams_and_are_logged_later(suite: Suite) -> None:
    one = suite.replica(const(1))
    split(suite, tables.variant("v1", 10_000), replicas={"v1": one.address})
    suite.streams_away = True
    ids = [ask(suite)[0]["prediction_id"] for _ in range(20)]
    suite.run(asyncio.sleep(0.2))
    assert suite.events == []
    suite.streams_away = False
    suite.settle()
    batches = suite.predictions()
    assert sorted(p for b in batches for p in b["prediction_id"]) == sorted(ids)
