"""What a pipeline must be, and the rule of the holdout."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service_kit.errors import InvalidArgument
from tests.training_svc.examples import WHEN, pipeline, run
from training_svc.domain.pipelines import (
    MetricBound,
    Pipeline,
    RunState,
    StepRecord,
    StepState,
    ended,
)
from training_svc.domain.rules import check_pipeline, check_window, holdout_start

NAN = float("nan")


def change(part: str, **changes: Any) -> Callable[[Pipeline], Pipeline]:
    return lambda given: replace(given, **{part: replace(getattr(given, part), **changes)})


def bounds(*given: MetricBound) -> Callable[[Pipeline], Pipeline]:
    return change("gate", bounds=given)


def test_the_example_is_accepted() -> None:
    check_pipeline(pipeline())
    check_pipeline(pipeline(release=None, checks=()))


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        (lambda given: replace(given, model="late"), "model"),
        (change("data", label_source="flights"), "data.label_source"),
        (change("data", feature_service=""), "data.feature_service"),
        (change("data", label_column=""), "data.label_column"),
        (change("data", request_features=("late",)), "data.request_features"),
        (change("data", lookback=timedelta(0)), "data.lookback"),
        (change("trainer", trainer=""), "trainer.trainer"),
        (change("trainer", cpus=-1.0), "trainer.cpus"),
        (change("trainer", gpus=NAN), "trainer.gpus"),
        (change("evaluation", primary_metric="calibration_error"), "evaluation.primary_metric"),
        (change("evaluation", resamples=10_001), "evaluation.resamples"),
        (change("evaluation", holdout=timedelta(-1)), "evaluation.holdout"),
        (change("gate", confidence=1.0), "gate.confidence"),
        (change("gate", confidence=NAN), "gate.confidence"),
        (change("gate", min_gain=float("inf")), "gate.min_gain"),
        (change("gate", max_segment_loss=-0.1), "gate.max_segment_loss"),
        (bounds(MetricBound("nonsense", minimum=1)), "gate.bounds[0].metric"),
        (bounds(MetricBound("brier", maximum=1), MetricBound("brier")), "gate.bounds[1]"),
        (bounds(MetricBound("brier", minimum=NAN)), "gate.bounds[0]"),
        (bounds(MetricBound("brier", minimum=2, maximum=1)), "gate.bounds[0]"),
        (change("release", endpoint="late"), "release.endpoint"),
        (lambda given: replace(given, seed=-1), "seed"),
        (lambda given: replace(given, seed=2**31), "seed"),
    ],
)
def test_what_could_not_run_is_refused_by_field(
    wrong: Callable[[Pipeline], Pipeline], field: str
) -> None:
    with pytest.raises(InvalidArgument) as error:
        check_pipeline(wrong(pipeline()))
    assert error.value.field == f"pipeline.{field}"


def test_a_window_must_not_be_empty() -> None:
    check_window(None, WHEN)
    check_window(WHEN - timedelta(microseconds=1), WHEN)
    with pytest.raises(InvalidArgument):
        check_window(WHEN, WHEN)


def test_the_holdout_is_the_last_fifth_unless_it_is_given() -> None:
    given = run(window_start=WHEN - timedelta(days=100))
    free = replace(pipeline(), evaluation=replace(pipeline().evaluation, holdout=None))
    first = WHEN - timedelta(days=50)
    assert holdout_start(given, free, first, None) == WHEN - timedelta(days=20)
    assert holdout_start(given, pipeline(), first, None) == WHEN - timedelta(days=14)
    open_start = replace(given, window_start=None)
    assert holdout_start(open_start, free, first, None) == WHEN - timedelta(days=10)


@given(st.integers(1, 80), st.integers(-100, 50))
def test_no_row_of_the_holdout_was_seen_by_the_champion(span: int, champion: int) -> None:
    spec = replace(pipeline().evaluation, holdout=timedelta(days=span))
    seen = WHEN + timedelta(days=champion)
    begin = holdout_start(run(), replace(pipeline(), evaluation=spec), WHEN, seen)
    assert begin >= seen
    assert begin >= WHEN - timedelta(days=span)


def test_the_end_of_a_run_ends_its_steps() -> None:
    steps = (
        StepRecord("validate", StepState.DONE),
        StepRecord("train", StepState.RUNNING),
        StepRecord("register"),
    )
    over = ended(run(steps=steps), RunState.CANCELLED, "stopped", WHEN)
    assert [each.state for each in over.steps] == ["DONE", "FAILED", "SKIPPED"]
    assert over.end_time == WHEN
    assert over.state.ended
