"""Contract messages to domain values and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any

from google.protobuf import json_format
from google.protobuf.message import Message
from modelyard.registry.v1 import registry_pb2
from modelyard.training.v1 import conversion_pb2
from modelyard.training.v1 import training_pb2 as pb

from service_kit.errors import InvalidArgument
from training_svc.domain.conversions import Conversion
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
    StepRecord,
    TrainerSpec,
    Trigger,
    TriggerKind,
)
from training_svc.peers import gate_message

OPTIONAL_BOUNDS = ("tolerance", "quantize_tolerance", "quantize_max_share_beyond")
EPOCH = datetime.fromtimestamp(0, UTC)


def moment(message: Any, field: str) -> datetime | None:
    """Reads an optional timestamp field as aware UTC."""
    if not message.HasField(field):
        return None
    try:
        found: datetime = getattr(message, field).ToDatetime(tzinfo=UTC)
    except (OverflowError, ValueError) as error:
        raise InvalidArgument("OUT_OF_RANGE", "is no timestamp", field=field) from error
    return found


def pipeline_from_message(pipeline_id: str, message: pb.Pipeline) -> Pipeline:
    """Reads what a caller may set of a pipeline."""
    return Pipeline(
        id=pipeline_id,
        description=message.description,
        model=message.model,
        data=_data_from(message.data),
        checks=tuple(
            DataCheck(
                each.validator, each.column, struct(each.config, f"pipeline.checks[{at}].config")
            )
            for at, each in enumerate(message.checks)
        ),
        trainer=TrainerSpec(
            message.trainer.trainer,
            struct(message.trainer.config, "pipeline.trainer.config"),
            message.trainer.cpus or 1.0,
            message.trainer.gpus,
        ),
        evaluation=EvaluationSpec(
            primary_metric=message.evaluation.primary_metric or "pr_auc",
            holdout=_span(message.evaluation, "holdout", "pipeline.evaluation"),
            segments=tuple(message.evaluation.segments),
            resamples=message.evaluation.resamples or 500,
            refit=message.evaluation.refit,
        ),
        gate=_gate_from(message.gate),
        conversion=conversion_from(message.conversion),
        release=_release_from(message),
        schedule=message.schedule,
        seed=message.seed,
        create_time=EPOCH,
        update_time=EPOCH,
    )


def _data_from(message: pb.DataSpec) -> DataSpec:
    return DataSpec(
        label_source=message.label_source,
        label_column=message.label_column,
        label_time_column=message.label_time_column,
        feature_service=message.feature_service,
        request_features=tuple(message.request_features),
        categorical_features=tuple(message.categorical_features),
        optional_features=tuple(message.optional_features),
        lookback=_span(message, "lookback", "pipeline.data"),
    )


def _gate_from(message: pb.GateSpec) -> GateSpec:
    bounds = (
        MetricBound(
            each.metric,
            each.minimum if each.HasField("minimum") else None,
            each.maximum if each.HasField("maximum") else None,
        )
        for each in message.bounds
    )
    return GateSpec(
        min_gain=message.min_gain,
        confidence=message.confidence or 0.95,
        bounds=tuple(bounds),
        max_segment_loss=message.max_segment_loss,
        requires_approval=message.requires_approval,
    )


def conversion_from(message: pb.ConversionSpec) -> ConversionSpec:
    """Reads how a file is made; what is absent is as by default."""
    given = {name: getattr(message, name) for name in OPTIONAL_BOUNDS if message.HasField(name)}
    return ConversionSpec(
        max_share_beyond=message.max_share_beyond, quantize=message.quantize, **given
    )


def _release_from(message: pb.Pipeline) -> ReleaseSpec | None:
    if not message.HasField("release"):
        return None
    strategy = json_format.MessageToDict(message.release.strategy, preserving_proto_field_name=True)
    return ReleaseSpec(message.release.endpoint, strategy)


def pipeline_to_message(pipeline: Pipeline) -> pb.Pipeline:
    """Makes the contract's pipeline."""
    message = pb.Pipeline(
        name=pipeline.name,
        description=pipeline.description,
        model=pipeline.model,
        data=_data_to(pipeline.data),
        trainer=pb.TrainerSpec(
            trainer=pipeline.trainer.trainer,
            config=dict(pipeline.trainer.config),
            cpus=pipeline.trainer.cpus,
            gpus=pipeline.trainer.gpus,
        ),
        checks=[
            pb.DataCheck(validator=each.validator, column=each.column, config=dict(each.config))
            for each in pipeline.checks
        ],
        evaluation=_evaluation_to(pipeline.evaluation),
        gate=_gate_to(pipeline.gate),
        conversion=pb.ConversionSpec(**asdict(pipeline.conversion)),
        schedule=pipeline.schedule,
        seed=pipeline.seed,
    )
    if pipeline.release is not None:
        message.release.endpoint = pipeline.release.endpoint
        json_format.ParseDict(dict(pipeline.release.strategy), message.release.strategy)
    message.create_time.FromDatetime(pipeline.create_time)
    message.update_time.FromDatetime(pipeline.update_time)
    return message


def _data_to(data: DataSpec) -> pb.DataSpec:
    message = pb.DataSpec(
        label_source=data.label_source,
        label_column=data.label_column,
        label_time_column=data.label_time_column,
        feature_service=data.feature_service,
        request_features=data.request_features,
        categorical_features=data.categorical_features,
        optional_features=data.optional_features,
    )
    if data.lookback is not None:
        message.lookback.FromTimedelta(data.lookback)
    return message


def _evaluation_to(evaluation: EvaluationSpec) -> pb.EvaluationSpec:
    message = pb.EvaluationSpec(
        primary_metric=evaluation.primary_metric,
        segments=evaluation.segments,
        resamples=evaluation.resamples,
        refit=evaluation.refit,
    )
    if evaluation.holdout is not None:
        message.holdout.FromTimedelta(evaluation.holdout)
    return message


def _gate_to(gate: GateSpec) -> pb.GateSpec:
    return pb.GateSpec(
        min_gain=gate.min_gain,
        confidence=gate.confidence,
        max_segment_loss=gate.max_segment_loss,
        requires_approval=gate.requires_approval,
        bounds=[
            pb.MetricBound(metric=each.metric, minimum=each.minimum, maximum=each.maximum)
            for each in gate.bounds
        ],
    )


def trigger_from_message(message: pb.Trigger) -> Trigger:
    """Reads a trigger; a person's when it says nothing."""
    if message.kind not in pb.Trigger.Kind.values():
        raise InvalidArgument("UNKNOWN_TRIGGER", "must be a kind of trigger", field="trigger.kind")
    name = pb.Trigger.Kind.Name(message.kind).removeprefix("KIND_")
    kind = TriggerKind.MANUAL if name == "UNSPECIFIED" else TriggerKind(name)
    return Trigger(kind, message.reason, message.source)


def run_to_message(run: PipelineRun) -> pb.PipelineRun:
    """Makes the contract's run."""
    message = pb.PipelineRun(
        name=run.name,
        trigger=pb.Trigger(
            kind=f"KIND_{run.trigger.kind}", reason=run.trigger.reason, source=run.trigger.source
        ),
        state=f"STATE_{run.state}",
        steps=[_step_to(each) for each in run.steps],
        snapshot=run.snapshot,
        training_set=run.training_set,
        model_version=run.model_version,
        gate=gate_message(run.gate),
        rollout=run.rollout,
        tracking_run_id=run.tracking_run_id,
        metrics=run.metrics,
        champion_metrics=run.champion_metrics,
        reason=run.reason,
    )
    times = ("window_start", "window_end", "create_time", "end_time")
    _set_times(message, {name: getattr(run, name) for name in times})
    return message


def conversion_wanted(message: conversion_pb2.Conversion) -> Conversion:
    """Reads what a caller may set of a conversion."""
    return Conversion(
        id="",
        source=message.source,
        format=message.format,
        sample=message.sample,
        create_time=EPOCH,
        spec=conversion_from(message.spec),
        outputs=message.output_count or 1,
    )


def conversion_to_message(conversion: Conversion) -> conversion_pb2.Conversion:
    """Makes the contract's conversion."""
    message = conversion_pb2.Conversion(
        name=conversion.name,
        source=conversion.source,
        format=conversion.format,
        sample=conversion.sample,
        spec=pb.ConversionSpec(**asdict(conversion.spec)),
        output_count=conversion.outputs,
        state=f"STATE_{conversion.state}",
        reason=conversion.reason,
        runtime=conversion.runtime,
        artifacts=[
            registry_pb2.VersionArtifact(role=role, filename=name, artifact=at, format=kind)
            for role, name, at, kind in conversion.artifacts
        ],
        parity_reports=[registry_pb2.ParityReport(**each) for each in conversion.parity_reports],
        inputs=conversion.inputs,
    )
    times = {"create_time": conversion.create_time, "end_time": conversion.end_time}
    _set_times(message, times)
    return message


def _step_to(step: StepRecord) -> pb.StepRecord:
    message = pb.StepRecord(
        step=step.step, state=f"STATE_{step.state}", detail=step.detail, attempts=step.attempts
    )
    _set_times(message, {"start_time": step.start_time, "end_time": step.end_time})
    return message


def _set_times(message: Message, times: Mapping[str, datetime | None]) -> None:
    for name, when in times.items():
        if when is not None:
            getattr(message, name).FromDatetime(when)


def struct(message: Any, field: str) -> dict[str, Any]:
    """Reads a `Struct`; its whole numbers are integers, as JSON numbers are all floats there.

    Raises:
        InvalidArgument: A number is not finite.
    """
    try:
        plain: dict[str, Any] = _whole(json_format.MessageToDict(message))
    except ValueError as error:  # NaN and infinity are no JSON
        raise InvalidArgument("NOT_FINITE", "numbers must be finite", field=field) from error
    return plain


def _whole(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _whole(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_whole(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _span(message: Any, field: str, path: str) -> timedelta | None:
    if not message.HasField(field):
        return None
    try:
        found: timedelta = getattr(message, field).ToTimedelta()
    except (OverflowError, ValueError) as error:
        raise InvalidArgument("OUT_OF_RANGE", "is no duration", field=f"{path}.{field}") from error
    return found
