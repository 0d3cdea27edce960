"""Round trips of pipelines and runs through documents and messages."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from google.protobuf import struct_pb2
from hypothesis import given, settings
from hypothesis import strategies as st
from modelyard.training.v1 import training_pb2 as pb

from service_kit.errors import InvalidArgument
from tests.training_svc.examples import WHEN, pipeline, run
from training_svc import messages as to
from training_svc.documents import (
    conversion_document,
    conversion_from,
    pipeline_document,
    pipeline_from,
    run_document,
    run_from,
)
from training_svc.domain.conversions import Conversion, ConversionState
from training_svc.domain.pipelines import (
    ConversionSpec,
    DataCheck,
    DataSpec,
    EvaluationSpec,
    GateSpec,
    MetricBound,
    Pipeline,
    PipelineRun,
    ReleaseSpec,
    RunState,
    StepRecord,
    StepState,
    TrainerSpec,
    Trigger,
    TriggerKind,
)

EPOCH = datetime(1970, 1, 2, tzinfo=UTC)
TEXT = st.text(max_size=8)
NAMES = st.lists(TEXT, max_size=3).map(tuple)
MOMENTS = st.integers(0, 8 * 10**15).map(lambda at: EPOCH + timedelta(microseconds=at))
SPANS = st.none() | st.integers(1, 10**9).map(lambda ms: timedelta(milliseconds=ms))
NUMBERS = st.floats(-1e6, 1e6)
SHARES = st.floats(0.5, 1)
CONFIGS = st.dictionaries(TEXT, NUMBERS | TEXT | st.booleans() | st.integers(0, 999), max_size=3)

PIPELINES = st.builds(
    Pipeline,
    id=st.just("late"),
    model=TEXT,
    data=st.builds(
        DataSpec,
        label_source=TEXT,
        label_column=TEXT,
        feature_service=TEXT,
        label_time_column=TEXT,
        request_features=NAMES,
        categorical_features=NAMES,
        optional_features=NAMES,
        lookback=SPANS,
    ),
    trainer=st.builds(TrainerSpec, TEXT, CONFIGS, st.floats(0.5, 9), st.floats(0, 9)),
    create_time=MOMENTS,
    update_time=MOMENTS,
    description=TEXT,
    checks=st.lists(st.builds(DataCheck, TEXT, TEXT, CONFIGS), max_size=2).map(tuple),
    evaluation=st.builds(
        EvaluationSpec, st.just("brier"), SPANS, NAMES, st.integers(1, 999), st.booleans()
    ),
    gate=st.builds(
        GateSpec,
        NUMBERS,
        SHARES,
        st.lists(
            st.builds(MetricBound, TEXT, st.none() | NUMBERS, st.none() | NUMBERS), max_size=2
        ).map(tuple),
        SHARES,
        st.booleans(),
    ),
    conversion=st.builds(ConversionSpec, SHARES, SHARES, st.booleans(), SHARES, SHARES),
    release=st.none()
    | st.builds(ReleaseSpec, TEXT, st.sampled_from([{}, {"steps": [5.0, 100.0], "alpha": 0.1}])),
    schedule=TEXT,
    seed=st.integers(0, 2**31 - 1),
)
RUNS = st.builds(
    PipelineRun,
    id=TEXT,
    pipeline=TEXT,
    trigger=st.builds(Trigger, st.sampled_from(TriggerKind), TEXT, TEXT),
    window_end=MOMENTS,
    create_time=MOMENTS,
    window_start=st.none() | MOMENTS,
    state=st.sampled_from(RunState),
    steps=st.lists(
        st.builds(
            StepRecord,
            TEXT,
            st.sampled_from(StepState),
            TEXT,
            st.none() | MOMENTS,
            st.none() | MOMENTS,
            st.integers(0, 9),
        ),
        max_size=3,
    ).map(tuple),
    trainer_config=CONFIGS,
    metrics=st.dictionaries(TEXT, NUMBERS, max_size=3),
    end_time=st.none() | MOMENTS,
    reason=TEXT,
)
MANY = settings(max_examples=60, deadline=None)


@given(PIPELINES)
@MANY
def test_a_pipeline_survives_as_a_document(given: Pipeline) -> None:
    document = json.loads(json.dumps(pipeline_document(given), allow_nan=False))
    assert pipeline_from(document) == given


@given(RUNS)
@MANY
def test_a_run_survives_as_a_document(given: PipelineRun) -> None:
    assert run_from(json.loads(json.dumps(run_document(given), allow_nan=False))) == given


@given(PIPELINES)
@MANY
def test_a_pipeline_survives_as_a_message(given: Pipeline) -> None:
    sent = pb.Pipeline.FromString(to.pipeline_to_message(given).SerializeToString())
    found = to.pipeline_from_message("late", sent)
    found = replace(found, create_time=given.create_time, update_time=given.update_time)
    assert found == given


@given(RUNS)
@MANY
def test_a_run_can_be_shown(given: PipelineRun) -> None:
    message = to.run_to_message(given)
    assert to.moment(message, "window_start") == given.window_start
    assert to.moment(message, "window_end") == given.window_end
    assert pb.PipelineRun.State.Name(message.state) == f"STATE_{given.state}"
    assert [each.attempts for each in message.steps] == [each.attempts for each in given.steps]
    assert to.trigger_from_message(message.trigger) == given.trigger


def test_a_gate_is_shown_with_its_checks() -> None:
    check = dict.fromkeys(("value", "lower", "upper", "threshold"), 0.5)
    gate = {
        "passed": False,
        "checks": [{"check": "pr_auc_gain", "passed": False, "detail": "no gain", **check}],
        "reasons": ["no gain"],
    }
    shown = to.run_to_message(run(gate=gate)).gate
    assert shown.outcome == 2
    assert shown.checks[0].lower == 0.5
    assert list(shown.reasons) == ["no gain"]


def test_defaults_are_filled_in() -> None:
    found = to.pipeline_from_message("late", pb.Pipeline(model="models/m"))
    assert found.trainer.cpus == 1
    assert found.evaluation == EvaluationSpec("pr_auc", None, (), 500)
    assert found.gate.confidence == 0.95
    assert found.release is None


def test_whole_numbers_of_a_config_are_integers() -> None:
    config = struct_pb2.Struct()
    config.update({"leaves": 31, "rate": 0.5, "deep": {"list": [1, 2.5]}})
    found = to.struct(config, "config")
    assert found == {"leaves": 31, "rate": 0.5, "deep": {"list": [1, 2.5]}}
    assert isinstance(found["leaves"], int)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_none_are_refused(value: float) -> None:
    config = struct_pb2.Struct()
    config.update({"rate": value})
    with pytest.raises(InvalidArgument):
        to.struct(config, "config")


def test_times_that_are_none_are_refused() -> None:
    request = pb.RunPipelineRequest()
    request.window_end.seconds = 10**15
    with pytest.raises(InvalidArgument, match="timestamp"):
        to.moment(request, "window_end")
    assert to.moment(pb.RunPipelineRequest(), "window_end") is None
    assert pipeline().create_time == WHEN


REPORTS = st.lists(
    st.fixed_dictionaries(
        {
            "method": TEXT,
            "source": TEXT,
            "target": TEXT,
            "passed": st.booleans(),
            "row_count": st.integers(0, 10**6),
            "max_abs_diff": st.floats(0, 1e30),
            "metric_changes": st.dictionaries(TEXT, st.floats(-1, 1), max_size=2),
        }
    ),
    max_size=2,
).map(tuple)

CONVERSIONS = st.builds(
    Conversion,
    id=st.uuids().map(str),
    source=TEXT,
    format=TEXT,
    sample=TEXT,
    create_time=MOMENTS,
    spec=st.builds(ConversionSpec, st.floats(0, 1), st.floats(0, 1), st.booleans()),
    outputs=st.integers(1, 1000),
    state=st.sampled_from(ConversionState),
    reason=TEXT,
    runtime=TEXT,
    artifacts=st.lists(st.tuples(TEXT, TEXT, TEXT, TEXT), max_size=3).map(tuple),
    parity_reports=REPORTS,
    inputs=NAMES,
    end_time=st.none() | MOMENTS,
)


@given(CONVERSIONS)
def test_a_conversion_survives_its_document(given_: Conversion) -> None:
    document = json.loads(json.dumps(conversion_document(given_)))
    assert conversion_from(document) == given_


@given(CONVERSIONS)
def test_a_conversion_s_message_has_all_of_it(given_: Conversion) -> None:
    message = to.conversion_to_message(given_)
    asked = to.conversion_wanted(message)
    kept = ("source", "format", "sample", "spec", "outputs")
    assert [getattr(asked, each) for each in kept] == [getattr(given_, each) for each in kept]
    assert message.name == given_.name
    assert list(message.inputs) == list(given_.inputs)
    found = [(e.role, e.filename, e.artifact, e.format) for e in message.artifacts]
    assert found == list(given_.artifacts)
    for report, shown in zip(given_.parity_reports, message.parity_reports, strict=True):
        for name, value in report.items():
            assert getattr(shown, name) == value
    assert message.HasField("end_time") is (given_.end_time is not None)
