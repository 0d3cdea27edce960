"""Training through its contract."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from google.protobuf import field_mask_pb2
from modelyard.training.v1 import training_pb2 as pb
from modelyard.training.v1 import training_pb2_grpc
from sqlalchemy import Engine

from service_kit.channels import calling
from service_kit.database import migrate
from service_kit.errors import (
    AlreadyExists,
    DomainError,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
)
from service_kit.migrations import schema_differences
from tests.training_svc.examples import WHEN, pipeline
from tests.training_svc.world import World
from training_svc.domain.pipelines import GateSpec
from training_svc.messages import pipeline_to_message
from training_svc.storage import Base

Stub = training_pb2_grpc.TrainingServiceStub
NAME = "pipelines/late"


@contextmanager
def refused(kind: type[DomainError], reason: str, field: str | None = None) -> Iterator[None]:
    with pytest.raises(kind) as error, calling("training"):
        yield
    assert error.value.reason == reason
    if field is not None:
        assert error.value.field == field


def create(training: Stub, pipeline_id: str = "late", **changes: Any) -> pb.Pipeline:
    message = pipeline_to_message(pipeline(**changes))
    request = pb.CreatePipelineRequest(pipeline_id=pipeline_id, pipeline=message)
    made: pb.Pipeline = training.CreatePipeline(request)
    return made


def ask(training: Stub, request_id: str = "") -> pb.PipelineRun:
    request = pb.RunPipelineRequest(pipeline=NAME, request_id=request_id)
    request.window_end.FromDatetime(WHEN)
    run: pb.PipelineRun = training.RunPipeline(request)
    return run


def wait(training: Stub, name: str, seconds: float = 30) -> pb.PipelineRun:
    request = pb.WaitPipelineRunRequest(name=name)
    request.timeout.FromMilliseconds(int(seconds * 1000))
    run: pb.PipelineRun = training.WaitPipelineRun(request, timeout=seconds + 10)
    return run


def test_migrations_make_the_tables_of_the_models(sql_engine: Engine) -> None:
    migrate(sql_engine, "training_svc")
    assert schema_differences(sql_engine, Base.metadata) == []


def test_a_run_from_request_to_release(training: Stub) -> None:
    made = create(training)
    assert made.name == NAME
    assert made.create_time == made.update_time
    asked = ask(training, "once")
    assert asked.state == pb.PipelineRun.STATE_QUEUED
    done = wait(training, asked.name)
    assert done.state == pb.PipelineRun.STATE_SUCCEEDED, done.reason
    assert done.gate.reasons[0] == "no champion to beat: the first version"
    assert done.trigger.kind == pb.Trigger.KIND_MANUAL
    assert done.metrics["rows"] > 200
    assert [each.step for each in done.steps][-2:] == ["register", "roll_out"]
    assert training.GetPipelineRun(pb.GetPipelineRunRequest(name=asked.name)) == done
    assert ask(training, "once").name == asked.name
    for parent in (NAME, "pipelines/-"):
        listed = training.ListPipelineRuns(pb.ListPipelineRunsRequest(parent=parent))
        assert [each.name for each in listed.runs] == [asked.name]


def test_a_request_id_stands_for_one_request(training: Stub) -> None:
    create(training)
    first = ask(training, "once")
    with refused(InvalidArgument, "REQUEST_ID_REUSED"):
        training.RunPipeline(pb.RunPipelineRequest(pipeline=NAME, request_id="once"))
    listed = training.ListPipelineRuns(pb.ListPipelineRunsRequest(parent=NAME))
    assert [each.name for each in listed.runs] == [first.name]


def test_pipelines_are_listed_by_id_and_changed_by_field(training: Stub) -> None:
    for pipeline_id in ("b", "a", "c"):
        create(training, pipeline_id)
    first = training.ListPipelines(pb.ListPipelinesRequest(page_size=2))
    assert [each.name for each in first.pipelines] == ["pipelines/a", "pipelines/b"]
    rest = training.ListPipelines(
        pb.ListPipelinesRequest(page_size=2, page_token=first.next_page_token)
    )
    assert [each.name for each in rest.pipelines] == ["pipelines/c"]
    assert rest.next_page_token == ""
    wanted = pb.Pipeline(name="pipelines/a", description="new", schedule="@nonsense")
    mask = field_mask_pb2.FieldMask(paths=["description"])
    changed = training.UpdatePipeline(pb.UpdatePipelineRequest(pipeline=wanted, update_mask=mask))
    assert (changed.description, changed.schedule) == ("new", "0 3 * * *")
    assert changed.update_time.ToNanoseconds() > changed.create_time.ToNanoseconds()
    mask.paths.append("create_time")
    with refused(InvalidArgument, "FIELD_NOT_UPDATABLE", "update_mask.create_time"):
        training.UpdatePipeline(pb.UpdatePipelineRequest(pipeline=wanted, update_mask=mask))


def test_a_deleted_pipeline_keeps_its_runs_and_may_come_again(training: Stub) -> None:
    create(training)
    asked = ask(training)
    training.DeletePipeline(pb.DeletePipelineRequest(name=NAME))
    with refused(NotFound, "PIPELINE_NOT_FOUND", "name"):
        training.GetPipeline(pb.GetPipelineRequest(name=NAME))
    with refused(NotFound, "PIPELINE_NOT_FOUND", "pipeline"):
        ask(training)
    assert wait(training, asked.name).state == pb.PipelineRun.STATE_SUCCEEDED
    create(training)
    listed = training.ListPipelineRuns(pb.ListPipelineRunsRequest(parent=NAME))
    assert len(listed.runs) == 1


def test_a_run_is_cancelled(training: Stub, world: World) -> None:
    world.stall.touch()
    create(training)
    asked = ask(training)
    stopped = training.CancelPipelineRun(pb.CancelPipelineRunRequest(name=asked.name))
    assert stopped.state == pb.PipelineRun.STATE_CANCELLED
    again = training.CancelPipelineRun(pb.CancelPipelineRunRequest(name=asked.name))
    assert again.end_time == stopped.end_time
    assert wait(training, asked.name) == training.GetPipelineRun(
        pb.GetPipelineRunRequest(name=asked.name)
    )


def test_a_run_is_approved(training: Stub) -> None:
    create(training, gate=GateSpec(requires_approval=True))
    asked = ask(training)
    answer = pb.ApprovePipelineRunRequest(name=asked.name, approved=True, request_id="yes")
    waiting = wait(training, asked.name)
    assert waiting.state == pb.PipelineRun.STATE_AWAITING_APPROVAL
    assert training.ApprovePipelineRun(answer) == training.ApprovePipelineRun(answer)
    assert wait(training, asked.name).state == pb.PipelineRun.STATE_SUCCEEDED
    with refused(FailedPrecondition, "NOT_AWAITING_APPROVAL", "name"):
        training.ApprovePipelineRun(pb.ApprovePipelineRunRequest(name=asked.name))


def _no_number(message: pb.Pipeline) -> None:
    message.trainer.config.update({"learning_rate": float("nan")})


def _no_schedule(message: pb.Pipeline) -> None:
    message.schedule = "at night"


def _no_gain(message: pb.Pipeline) -> None:
    message.gate.min_gain = float("nan")


@pytest.mark.parametrize(
    ("spoil", "reason", "field"),
    [
        (_no_number, "NOT_FINITE", "pipeline.trainer.config"),
        (_no_schedule, "INVALID_SCHEDULE", "pipeline.schedule"),
        (_no_gain, "OUT_OF_RANGE", "pipeline.gate.min_gain"),
    ],
)
def test_bad_pipelines_are_refused_by_field(
    training: Stub, spoil: Callable[[pb.Pipeline], None], reason: str, field: str
) -> None:
    message = pipeline_to_message(pipeline())
    spoil(message)
    with refused(InvalidArgument, reason, field):
        training.CreatePipeline(pb.CreatePipelineRequest(pipeline_id="late", pipeline=message))
    assert not training.ListPipelines(pb.ListPipelinesRequest()).pipelines


def test_bad_requests_are_refused(training: Stub) -> None:
    create(training)
    with refused(AlreadyExists, "PIPELINE_EXISTS", "pipeline_id"):
        create(training)
    with refused(InvalidArgument, "INVALID_ID", "pipeline_id"):
        create(training, "Late Flights")
    with refused(InvalidArgument, "INVALID_NAME", "name"):
        training.GetPipeline(pb.GetPipelineRequest(name="late"))
    with refused(NotFound, "RUN_NOT_FOUND", "name"):
        training.GetPipelineRun(pb.GetPipelineRunRequest(name=f"{NAME}/runs/1"))
    with refused(InvalidArgument, "INVALID_NAME", "parent"):
        training.ListPipelineRuns(pb.ListPipelineRunsRequest(parent="late"))
    wrong = pb.RunPipelineRequest(pipeline=NAME)
    wrong.trainer_config.update({"num_leaves": 1})
    with refused(InvalidArgument, "PLUGIN_CONFIG_INVALID", "trainer_config.num_leaves"):
        training.RunPipeline(wrong)
    backwards = pb.RunPipelineRequest(pipeline=NAME)
    backwards.window_start.FromDatetime(WHEN)
    backwards.window_end.FromDatetime(WHEN)
    with refused(InvalidArgument, "EMPTY_WINDOW", "window_start"):
        training.RunPipeline(backwards)
    assert not training.ListPipelineRuns(pb.ListPipelineRunsRequest(parent="pipelines/-")).runs
