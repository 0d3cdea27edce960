"""Features looked up in the lane: answers, log and refusals are those of the ordinary way."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.hotlane.protocol import HotLaneProtocol
from tests.gateway import tables
from tests.gateway.asking import GOOD, PREDICT
from tests.gateway.conftest import Suite
from tests.gateway.fakes import FakeReplica, total
from tests.gateway.sockets import Served
from tests.gateway.test_hotlane import comparable, request


@pytest.fixture(scope="module")
def replica(module_suite: Suite) -> FakeReplica:
    return module_suite.replica(total)


@pytest.fixture(scope="module")
def module_served(module_suite: Suite) -> Iterator[Served]:
    made = Served(module_suite)
    lane = functools.partial(HotLaneProtocol, module_suite.gateway.lane, 0.3)
    module_suite.run(made.start("lane", lane))
    module_suite.run(made.start("plain", "httptools"))
    yield made
    module_suite.run(made.stop())


@pytest.fixture
def served(suite: Suite, module_served: Served, replica: FakeReplica) -> Served:
    push(suite, replica)
    return module_served


def push(suite: Suite, replica: FakeReplica, **fields: Any) -> None:
    variant = tables.variant("v1", 10_000, of=tables.signature())
    suite.push(tables.route("late", variant, **fields), v1=replica.address)
    suite.until(lambda: suite.gateway._pool.serves(variant.model_version))


def ask(served: Served, name: str, *instances: Any, **more: Any) -> Any:
    body = orjson.dumps({"instances": list(instances), **more})
    ((status, _, answer),) = served.ask(name, request(served.suite, PREDICT, body))
    return status, orjson.loads(answer)


def test_features_are_looked_up_in_the_lane(served: Served) -> None:
    before = served.ordinary
    status, answer = ask(served, "lane", GOOD, {**GOOD, "carrier": "AA", "hour": 7})
    assert (status, served.ordinary) == (200, before)
    scores = [each["outputs"]["late"] for each in answer["predictions"]]
    assert scores == [1111.5, 20 + 1.5 + 100 + 7 + 1]
    (read,) = served.suite.features.asks
    assert list(read.entities[0].strings.values) == ["UA", "AA"]
    (batch,) = served.suite.predictions()
    assert batch["input.mean_delay"] == [10.0, 20.0]
    assert batch["input.carrier"] == ["UA", "AA"]
    assert all(batch["known.mean_delay"])


instances = st.fixed_dictionaries(
    {
        "carrier": st.sampled_from(["UA", "AA", "ZZ", "", 7, None]),
        "origin": st.sampled_from(["JFK", "LGA", "NUL"]),
        "distance": st.sampled_from([100, 2.5, None, "far"]),
    },
    optional={"hour": st.sampled_from([1, None]), "mean_delay": st.just(3)},
)


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    rows=st.lists(instances, min_size=1, max_size=3),
    features=st.booleans(),
    times=st.sampled_from([[], ["2013-05-01T10:00:00Z"]]),
)
def test_both_ways_answer_alike(
    served: Served, rows: list[Any], features: bool, times: list[str]
) -> None:
    more = {"event_times": times * len(rows)} if times else {}
    body = orjson.dumps({"instances": rows, "return_features": features, **more})
    found = [
        comparable(served.ask(name, request(served.suite, PREDICT, body))[0])
        for name in ("lane", "plain")
    ]
    assert found[0] == found[1]


def test_event_times_are_the_reference_of_the_store(served: Served) -> None:
    status, _ = ask(served, "lane", GOOD, event_times=["2013-05-01T10:00:00Z"])
    assert status == 200
    (read,) = served.suite.features.asks
    assert list(read.as_of_us) == [1_367_402_400_000_000]


def test_a_store_that_refuses_is_no_answer(served: Served) -> None:
    served.suite.features.away = True
    before = served.ordinary
    status, problem = ask(served, "lane", GOOD)
    assert (status, problem["reason"], served.ordinary) == (503, "NO_ANSWER", before + 1)


def test_a_value_that_no_model_takes_spoils_no_other_request(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = served.suite
    monkeypatch.setitem(suite.features.DELAYS, "BIG", 1e39)
    carriers = ["UA", "BIG", "AA", "BIG", "UA"]
    bodies = [orjson.dumps({"instances": [{**GOOD, "carrier": each}]}) for each in carriers]

    async def all_at_once() -> list[Any]:
        asked = [served.send("lane", [request(suite, PREDICT, body)]) for body in bodies]
        return [answer for (answer,) in await asyncio.gather(*asked)]

    began = time.monotonic()
    answers = suite.run(all_at_once())
    assert [status for status, *_ in answers] == [200, 503, 200, 503, 200]
    assert time.monotonic() - began < 0.8


def test_a_store_that_hangs_is_waited_for_no_longer_than_the_deadline(
    served: Served, replica: FakeReplica
) -> None:
    push(served.suite, replica, deadline_ms=200, default_outputs=[-1.0])
    served.suite.features.delay = 0.6
    status, answer = ask(served, "lane", GOOD)
    served.suite.features.delay = 0.0
    assert (status, answer["predictions"][0]["outputs"]) == (200, {"late": -1.0})
    plane = served.suite.gateway.plane
    served.suite.until(lambda: not any(plane._in_flight.values()))
    assert not len(served.suite.gateway.lane._direct._pending)


def test_too_many_reads_are_refused_and_counted_off(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.dataplane.features.MOST_ROWS_WAITING", 0)
    status, problem = ask(served, "lane", GOOD)
    assert (status, problem["reason"]) == (503, "NO_ANSWER")
    assert not any(served.suite.gateway.plane._in_flight.values())


def test_kept_answers_of_looked_up_rows_go_the_ordinary_way(
    served: Served, replica: FakeReplica
) -> None:
    push(served.suite, replica, cache_rows=10)
    before = served.ordinary
    answers = [ask(served, "lane", GOOD) for _ in range(2)]
    assert [answer["predictions"][0]["cached"] for _, answer in answers] == [False, True]
    assert served.ordinary == before + 2
