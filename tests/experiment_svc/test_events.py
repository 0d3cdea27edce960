"""Events to columns: what a missing score, a failure and a bad column become."""

from __future__ import annotations

import math

import numpy as np
import pytest
from modelyard.events.v1 import events_pb2 as pb

from experiment_svc.events import exposures_from_message, outcomes_from_message
from service_kit.errors import InvalidArgument


def message(**fields: object) -> pb.ExposureBatch:
    base = {
        "experiment": "experiments/exp-1",
        "arms": ["a", "b"],
        "unit_ids": ["u1", "u2"],
        "prediction_ids": ["p1", "p2"],
        "assigned": [0, 1],
        "scores": [0.1, math.nan, 0.3, math.inf],
        "event_times_us": [1, 2],
        "latencies_us": [10, 0, 30, 40],
        "errors": bytes([1, 0, 0, 0]),
    }
    return pb.ExposureBatch(**{**base, **fields})


def test_an_arm_may_answer_fail_or_not_be_asked() -> None:
    rows = exposures_from_message(message()).rows
    np.testing.assert_array_equal(rows.failed, [[1, math.nan], [0, 1]])
    np.testing.assert_array_equal(rows.scores, [[math.nan, math.nan], [0.3, math.nan]])
    np.testing.assert_array_equal(rows.latencies_us, [[10, math.nan], [30, 40]])


def test_errors_and_latencies_may_be_left_out() -> None:
    batch = exposures_from_message(message(errors=b"", latencies_us=[]))
    np.testing.assert_array_equal(batch.rows.failed, [[0, math.nan], [0, 1]])
    assert np.isnan(batch.rows.latencies_us).all()
    assert batch.experiment_id == "exp-1"
    assert batch.arms == ("a", "b")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("unit_ids", ["u1"]),
        ("assigned", [0]),
        ("assigned", [0, 2]),
        ("scores", [0.1]),
        ("event_times_us", []),
        ("latencies_us", [1]),
        ("errors", b"\0"),
        ("experiment", "exp-1"),
    ],
)
def test_columns_that_do_not_fit_are_refused(field: str, value: object) -> None:
    with pytest.raises(InvalidArgument) as raised:
        exposures_from_message(message(**{field: value}))
    assert raised.value.field == field


def test_an_empty_batch_is_refused() -> None:
    empty = {"unit_ids": [], "prediction_ids": [], "assigned": [], "event_times_us": []}
    with pytest.raises(InvalidArgument):
        exposures_from_message(message(**empty, scores=[], latencies_us=[], errors=b""))


def test_outcomes_have_a_value_and_a_time_each() -> None:
    found = outcomes_from_message(
        pb.OutcomeBatch(prediction_ids=["p"], values=[1.0], event_times_us=[5])
    )
    assert (found.values.tolist(), found.event_times_us.tolist()) == ([1.0], [5])
    with pytest.raises(InvalidArgument):
        outcomes_from_message(pb.OutcomeBatch(prediction_ids=["p"], values=[]))
