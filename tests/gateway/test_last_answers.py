"""Last answers: what was asked before is answered again when nobody can, and says so."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dataplane.ask import Answer, Ask, Scored
from gateway.dataplane.last_answers import LastAnswers
from gateway.dataplane.routing import Route, compile_state
from gateway.inference_v2.tensors import MATRIX
from service_kit.metrics import REGISTRY
from tests.gateway import tables
from tests.gateway.asking import GOOD, PREDICT, split
from tests.gateway.conftest import Suite
from tests.gateway.fakes import const, total

NAMES = ("y",)


def compiled(rows: int = 100, age: int = 60) -> Route:
    variant = tables.variant("v1", 10_000)
    route = tables.route("e", variant, last_answer_rows=rows, last_answer_age_s=age)
    return compile_state(tables.state(1, route)).routes["e"]


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
    last = LastAnswers(clock)
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
        assert last.find(route, ask, [0], NAMES) == expected
        assert last.rows() == len(reference)


def test_a_row_is_known_by_what_it_says_not_by_how() -> None:
    route, last = compiled(), LastAnswers()
    named = Ask("e", [{"a": 1, "b": "x"}, {"a": 2, "b": "x"}])
    last.remember(named, answered(route, named, 1, 2))
    assert last.find(route, Ask("e", [{"b": "x", "a": 2}]), [0], NAMES) == [(2,)]
    assert last.find(route, named, [0, 1], NAMES) == [(1,), (2,)]
    assert last.find(route, Ask("e", [{"a": 1, "b": "x"}, {"a": 3}]), [0, 1], NAMES) is None
    assert last.find(route, named, [0], ("other",)) is None
    matrix = Ask("e", [{}, {}], matrix=array("f", [1, 2, 3, 4]).tobytes())
    last.remember(matrix, answered(route, matrix, 5, 6))
    again = Ask("e", [{}], matrix=array("f", [3, 4]).tobytes())
    assert last.find(route, again, [0], NAMES) == [(6,)]
    last.keep_only([route])
    assert last.rows() == 4
    last.keep_only([compiled(rows=0)])
    assert last.find(route, again, [0], NAMES) is None


def test_what_can_t_be_said_in_short_is_not_remembered() -> None:
    route, last = compiled(), LastAnswers()
    ask = Ask("e", [{"a": 2**70}])
    last.remember(ask, answered(route, ask, 1))
    assert (last.rows(), last.find(route, ask, [0], NAMES)) == (0, None)


@pytest.mark.parametrize("more", [{"version": "v1"}, {"event_times_us": [1]}])
def test_whoever_names_version_or_time_gets_none(more: dict[str, Any]) -> None:
    route, last = compiled(), LastAnswers()
    plain, named = Ask("e", [{"a": 1}]), Ask("e", [{"a": 1}], **more)
    last.remember(named, answered(route, named, 1))
    assert last.rows() == 0
    last.remember(plain, answered(route, plain, 1))
    assert last.find(route, named, [0], NAMES) is None


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
