"""Events of predictions as rows."""

from __future__ import annotations

import pyarrow as pa
import pytest
from modelyard.events.v1 import events_pb2

from monitor_svc import events
from tests.arrow import TIME, encoded


def test_what_stands_in_for_an_answer_says_nothing_of_a_model() -> None:
    fallbacks = ["", "default", "champion", "last_answer", ""]
    rows = len(fallbacks)
    columns = {
        "prediction_id": pa.array([f"p{n}" for n in range(rows)]),
        "event_time": pa.array(range(rows), TIME),
        "score": pa.array([n / 10 for n in range(rows)]),
        "fallback": pa.array(fallbacks),
        "input.hour": pa.array([float(n) for n in range(rows)], pa.float32()),
    }
    found = events.prediction_rows(events_pb2.PredictionBatch(rows=encoded(columns)))
    assert found is not None
    assert list(found.ids) == ["p0", "p2", "p4"]
    assert found.scores.tolist() == pytest.approx([0, 0.2, 0.4])
    assert found.times_us.tolist() == [0, 2, 4]
    assert found.columns["hour"].values.tolist() == [0, 2, 4]
