"""Features that the feature service remembers, as its store does not answer."""

from __future__ import annotations

from typing import Any

import pytest

from tests.gateway import tables
from tests.gateway.asking import GOOD, PREDICT
from tests.gateway.conftest import Suite
from tests.gateway.fakes import total

INFER = "/v2/models/late/infer"


def push(suite: Suite, **fields: Any) -> None:
    replica = suite.replica(total)
    variant = tables.variant("v1", 10_000, of=tables.signature())
    suite.push(tables.route("late", variant, **fields), v1=replica.address)


@pytest.fixture(params=["frames", "calls"])
def way(request: pytest.FixtureRequest, suite: Suite) -> Any:
    """Both ways to the feature service."""
    if request.param == "frames":
        yield
        return
    suite.frames.stop()
    suite.until(lambda: not suite.in_frames())
    yield
    suite.restart_frames()
    suite.until(suite.in_frames)


@pytest.mark.usefixtures("way")
def test_a_models_answer_to_them_says_so(suite: Suite) -> None:
    push(suite)
    suite.features.remembered = True
    (found,) = suite.post(PREDICT, {"instances": [GOOD]}).json()["predictions"]
    assert (found["fallback"], found["variant"]) == ("remembered_features", "v1")
    (batch,) = suite.predictions()
    assert batch["fallback"] == ["remembered_features"]
    assert batch["input.mean_delay"] == [10.0]
    names, values = zip(*GOOD.items(), strict=True)
    kinds = ["FP64" if isinstance(value, int) else "BYTES" for value in values]
    inputs = [
        {"name": name, "datatype": kind, "shape": [1], "data": [value]}
        for name, kind, value in zip(names, kinds, values, strict=True)
    ]
    told = suite.post(INFER, {"inputs": inputs}).json()["parameters"]
    assert told["fallback"] == "remembered_features"
    suite.features.remembered = False
    (found,) = suite.post(PREDICT, {"instances": [GOOD]}).json()["predictions"]
    assert found["fallback"] == ""


@pytest.mark.parametrize("carrier", ["ZZ", "NULL"])
def test_what_is_missing_then_may_be_there_by_now(suite: Suite, carrier: str) -> None:
    """So that another answer stands in: nobody is told that there is no such entity."""
    push(suite, default_outputs=[0.25])
    asked = {"instances": [GOOD | {"carrier": carrier}]}
    assert suite.post(PREDICT, asked).status_code in (404, 422)
    suite.features.remembered = True
    (found,) = suite.post(PREDICT, asked).json()["predictions"]
    assert (found["fallback"], found["outputs"]) == ("default", {"late": 0.25})
    push(suite)
    answer = suite.post(PREDICT, asked)
    assert (answer.status_code, answer.json()["reason"]) == (503, "NO_ANSWER")


def test_what_need_not_be_there_is_missing_as_ever(suite: Suite) -> None:
    push(suite)
    suite.features.remembered = True
    asked = {"instances": [GOOD | {"origin": "???"}]}
    (found,) = suite.post(PREDICT, asked).json()["predictions"]
    assert found["fallback"] == "remembered_features"
