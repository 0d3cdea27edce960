"""Comparison of answers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training_svc.domain.parity import NO_NUMBER, Tolerance, compare, failed, with_metrics

ROWS = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30)


@given(ROWS, st.floats(0, 10), st.floats(0, 1))
def test_a_model_is_as_itself(answers: list[float], most: float, share: float) -> None:
    same = np.array(answers)
    parity = compare("onnx", same, same, Tolerance(most, share))
    assert parity.passed
    assert (parity.max_abs_diff, parity.mean_abs_diff, parity.share_beyond) == (0, 0, 0)
    assert parity.row_count == len(answers)


@given(ROWS, st.data(), st.floats(0, 10))
def test_it_passes_when_no_more_rows_differ_than_may(
    answers: list[float], data: st.DataObject, most: float
) -> None:
    source = np.array(answers)
    shifts = data.draw(st.lists(st.floats(-20, 20), min_size=len(source), max_size=len(source)))
    target = source + np.array(shifts)
    beyond = np.abs(target - source) > most
    for share in (0.0, 0.3, 1.0):
        parity = compare("onnx", source, target, Tolerance(most, share))
        assert parity.share_beyond == pytest.approx(beyond.mean())
        assert parity.passed == (parity.share_beyond <= share)
        assert 0 <= parity.mean_abs_diff <= parity.max_abs_diff * (1 + 1e-9)


def test_of_several_outputs_the_worst_decides_on_a_row() -> None:
    source = np.zeros((4, 3))
    target = source.copy()
    target[1, 2] = 0.5
    target[3, :] = 0.2
    parity = compare("onnx", source, target, Tolerance(0.1, 0.4), (10, 20))
    assert (parity.share_beyond, parity.max_abs_diff, parity.passed) == (0.5, 0.5, False)
    assert parity.mean_abs_diff == pytest.approx(1.1 / 12)
    assert (parity.source_bytes, parity.target_bytes) == (10, 20)
    assert "50.00% of them by more than 0.1 (40.00% may)" in parity.reason


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_an_answer_that_is_no_number_differs(bad: float) -> None:
    parity = compare("onnx", np.zeros(2), np.array([0, bad]), Tolerance(1e6))
    assert (parity.passed, parity.share_beyond) == (False, 0.5)
    assert parity.max_abs_diff == pytest.approx(NO_NUMBER)


def test_changes_of_metrics_are_from_source_to_target() -> None:
    labels = np.array([0.0, 0.0, 1.0, 1.0])
    good, bad = np.array([0.1, 0.2, 0.8, 0.9]), np.array([0.9, 0.8, 0.2, 0.1])
    parity = with_metrics(failed("onnx", "because", Tolerance(1)), labels, good, bad)
    assert parity.metric_changes["roc_auc"] == -1.0
    assert parity.metric_changes["brier"] > 0
    assert "rows" not in parity.metric_changes
