"""Last answers: what was asked before is answered again when nobody can, and says so."""

from __future__ import annotations

import tracemalloc
from array import array
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dataplane.ask import Answer, Ask, Scored
from gateway.dataplane.last_answers import ENTRY_BYTES, OUTPUT_BYTES, LastAnswers
from gateway.dataplane.routing import Route, compile_state
from gateway.inference_v2.tensors import MATRIX
from service_kit.metrics import REGISTRY
from tests.gateway import tables
from tests.gateway.asking import GOOD, PREDICT, split
from tests.gateway.conftest import Suite
from tests.gateway.fakes import const, total

BYTES = 1_000_000


def compiled(
    rows: int = 100, age: int = 60, *, name: str = "e", variants: Sequence[Any] = ()
) -> Route:
    variants = variants or [tables.variant("v1", 10_000)]
    route = tables.route(name, *variants, last_answer_rows=rows, last_answer_age_s=age)
    return compile_state(tables.state(1, route)).routes[name]


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def answered(route: Route, ask: Ask, *outputs: float) -> Answer:
    rows = list(range(len(outputs)))
    served = route.champion
    group = Scored(rows, served, served, "", [(each,) for each in outputs], None)
    return Answer(route, ["id"] * len(rows), ["u"] * len(rows), [0] * len(rows), [group])


@given(
    st.lists(st.tuples(st.integers(0, 12), st.booleans(), st.floats(0, 40)), max_size=60),
    st.integers(1, 8),
)
def test_the_last_ones_that_are_young_enough_are_known(
    steps: list[tuple[int, bool, float]], most: int
) -> None:
    clock, route = Clock(), compiled(most)
    last = LastAnswers(BYTES, clock)
    reference: dict[int, tuple[float, float]] = {}
    for number, (key, told, later) in enumerate(steps):
        clock.now += later
        ask = Ask("e", [{"user": key, "n": 1}])
        if told:
            last.remember(ask, answered(route, ask, float(number)))
            reference.pop(key, None)
            reference[key] = float(number), clock.now
            while len(reference) > most:
                del reference[next(iter(reference))]
        known = reference.get(key)
        young = known is not None and known[1] >= clock.now - route.last_answer_age_s
        expected = [(known[0],)] if known is not None and young else None
        assert last.find(route, ask, [0], route.champion) == expected
        assert last.rows() == len(reference)


def test_a_row_is_known_by_what_it_says_not_by_how() -> None:
    route, last = compiled(), LastAnswers(BYTES)
    v1 = route.champion
    named = Ask("e", [{"a": 1, "b": "x"}, {"a": 2, "b": "x"}])
    last.remember(named, answered(route, named, 1, 2))
    assert last.find(route, Ask("e", [{"b": "x", "a": 2}]), [0], v1) == [(2,)]
    assert last.find(route, named, [0, 1], v1) == [(1,), (2,)]
    assert last.find(route, Ask("e", [{"a": 1, "b": "x"}, {"a": 3}]), [0, 1], v1) is None
    matrix = Ask("e", [{}, {}], matrix=array("f", [1, 2, 3, 4]).tobytes())
    last.remember(matrix, answered(route, matrix, 5, 6))
    again = Ask("e", [{}], matrix=array("f", [3, 4]).tobytes())
    assert last.find(route, again, [0], v1) == [(6,)]
    last.keep_only([route])
    assert last.rows() == 4
    last.keep_only([compiled(rows=0)])
    assert last.find(route, again, [0], v1) is None
    assert last._size == 0


def test_a_version_that_was_rolled_back_gives_no_answer_any_more() -> None:
    both = compiled(variants=[tables.variant("v1", 5_000), tables.variant("v2", 5_000)])
    back, last = compiled(), LastAnswers(BYTES)
    ask = Ask("e", [{"a": 1}])
    bad = answered(both, ask, 0.0)
    bad.scored[0].served = both.variants[1]
    last.remember(ask, bad)
    assert last.find(both, ask, [0], both.champion) == [(0.0,)]
    last.keep_only([back])
    assert last.find(back, ask, [0], back.champion) is None


def test_the_same_numbers_may_be_another_question() -> None:
    one = tables.variant("v1", 5_000, of=tables.plain_signature(2))
    other = tables.variant("v2", 5_000, of=tables.plain_signature(2))
    other.signature.inputs[0].name, other.signature.inputs[1].name = "x1", "x0"
    route, last = compiled(variants=[one, other]), LastAnswers(BYTES)
    ask = Ask("e", [{}], matrix=array("f", [9, 500]).tobytes())
    last.remember(ask, answered(route, ask, 1))
    assert last.find(route, ask, [0], route.variants[0]) == [(1,)]
    assert last.find(route, ask, [0], route.variants[1]) is None


def test_versions_with_other_outputs_don_t_stand_in_for_each_other() -> None:
    other = tables.variant("v2", 5_000)
    other.signature.outputs[:] = ["z"]
    route = compiled(variants=[tables.variant("v1", 5_000), other])
    last, ask = LastAnswers(BYTES), Ask("e", [{"a": 1}])
    last.remember(ask, answered(route, ask, 1))
    assert last.find(route, ask, [0], route.variants[1]) is None


def test_all_endpoints_together_take_no_more_than_they_may() -> None:
    routes = [compiled(10_000, name=name) for name in ("e", "f")]
    last = LastAnswers(100 * (ENTRY_BYTES + OUTPUT_BYTES))
    for number in range(150):
        for route in routes:
            ask = Ask(route.endpoint, [{"a": number}])
            last.remember(ask, answered(route, ask, number))
    assert last.rows() == 100
    for route in routes:
        newest, oldest = (Ask(route.endpoint, [{"a": number}]) for number in (149, 0))
        assert last.find(route, newest, [0], route.champion) == [(149,)]
        assert last.find(route, oldest, [0], route.champion) is None


@pytest.mark.parametrize("outputs", [1, 100])
def test_the_estimate_of_bytes_is_an_upper_one(outputs: int) -> None:
    route, last = compiled(10_000), LastAnswers(BYTES * 1_000)
    asks = [Ask("e", [{"a": number}]) for number in range(3_000)]
    tracemalloc.start()
    try:
        for number, ask in enumerate(asks):
            answer = answered(route, ask, 0)
            answer.scored[0].outputs = [tuple(number + at / 7 for at in range(outputs))]
            last.remember(ask, answer)
        del answer
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 0.5 * last._size < taken <= last._size


def test_what_can_t_be_said_in_short_is_not_remembered() -> None:
    route, last = compiled(), LastAnswers(BYTES)
    ask = Ask("e", [{"a": 2**70}])
    last.remember(ask, answered(route, ask, 1))
    assert (last.rows(), last.find(route, ask, [0], route.champion)) == (0, None)


@pytest.mark.parametrize("more", [{"version": "v1"}, {"event_times_us": [1]}])
def test_whoever_names_version_or_time_gets_none(more: dict[str, Any]) -> None:
    route, last = compiled(), LastAnswers(BYTES)
    plain, named = Ask("e", [{"a": 1}]), Ask("e", [{"a": 1}], **more)
    last.remember(named, answered(route, named, 1))
    assert last.rows() == 0
    last.remember(plain, answered(route, plain, 1))
    assert last.find(route, named, [0], route.champion) is None


@pytest.fixture
def away(suite: Suite) -> Iterator[Suite]:
    yield suite
    suite.features.away = False


def late(suite: Suite, **fields: Any) -> None:
    suite.gateway.plane.last_answers.keep_only(())
    replica = suite.replica(total)
    variant = tables.variant("v1", 10_000, of=tables.signature())
    more = {"last_answer_rows": 10, "last_answer_age_s": 60} | fields
    suite.push(tables.route("late", variant, **more), v1=replica.address)


def test_features_that_can_t_be_had_are_made_up_for_by_the_last_answer(away: Suite) -> None:
    late(away, default_outputs=[-1.0])
    other = {**GOOD, "carrier": "AA"}

    def ask(*instances: Any, **more: Any) -> list[Any]:
        answer = away.post(PREDICT, {"instances": list(instances), **more})
        assert answer.status_code == 200, answer.text
        return [
            (each["outputs"]["late"], each["fallback"], each["variant"], each["model_version"])
            for each in answer.json()["predictions"]
        ]

    (first,) = ask(GOOD)
    away.features.away = True
    assert first[1] == ""
    assert ask(GOOD) == [(first[0], "last_answer", "", "")]
    assert ask(dict(reversed(GOOD.items()))) == [(first[0], "last_answer", "", "")]
    assert ask(GOOD, other) == [(-1.0, "default", "", "")] * 2
    assert ask(GOOD, event_times=["2013-05-01T10:00:00Z"]) == [(-1.0, "default", "", "")]
    away.features.away = False
    assert ask(other)[0][1] == ""
    away.features.away = True
    assert [each[1] for each in ask(GOOD, other)] == ["last_answer"] * 2
    away.settle()
    logged = [batch.columns.get("fallback", [""]) for batch in away.predictions()]
    assert sum(each.count("last_answer") for each in logged) == 4
    labels = {"endpoint": "endpoints/late", "variant": "", "fallback": "last_answer"}
    assert (REGISTRY.get_sample_value("modelyard_predictions_total", labels) or 0) >= 4


def test_without_either_it_is_no_answer(away: Suite) -> None:
    late(away, last_answer_rows=0)
    assert away.post(PREDICT, {"instances": [GOOD]}).status_code == 200
    away.features.away = True
    answer = away.post(PREDICT, {"instances": [GOOD]})
    assert (answer.status_code, answer.json()["reason"]) == (503, "NO_ANSWER")
    assert away.gateway.plane.last_answers.rows() == 0


def test_a_model_that_fails_is_made_up_for_whoever_asks(suite: Suite) -> None:
    suite.gateway.plane.last_answers.keep_only(())
    one = suite.replica(const(1))
    variant = tables.variant("v1", 10_000)
    limits = {"last_answer_rows": 10, "last_answer_age_s": 60}
    split(suite, variant, replicas={"v1": one.address}, **limits)
    tensor = {"name": MATRIX, "datatype": "FP32", "shape": [2, 2], "data": [1, 2, 3, 4]}
    path, body = "/v2/models/ab/infer", {"inputs": [tensor]}
    before = suite.post(path, body).json()
    one.error = "MODEL_FAILED"
    after = suite.post(path, body).json()
    assert after["outputs"] == before["outputs"]
    assert before["parameters"]["fallback"] == ""
    assert after["parameters"]["fallback"] == "last_answer"
    tensor["data"] = [1, 2, 3, 5]
    assert suite.post(path, body).status_code == 503
