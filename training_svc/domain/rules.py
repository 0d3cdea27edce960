"""What a pipeline must be, and which rows a run holds out."""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import datetime, timedelta

from service_kit.errors import InvalidArgument
from service_kit.names import parse_name
from training_svc.domain.metrics import METRICS
from training_svc.domain.pipelines import Pipeline, PipelineRun

DEFAULT_HOLDOUT_SHARE = 0.2
MAX_RESAMPLES = 10_000


def check_pipeline(pipeline: Pipeline) -> None:
    """Refuses a pipeline that could not run.

    Raises:
        InvalidArgument: Names the field at fault.
    """
    data, evaluation = pipeline.data, pipeline.evaluation
    parse_name("models/{model}", pipeline.model, field="pipeline.model")
    parse_name("dataSources/{source}", data.label_source, field="pipeline.data.label_source")
    parse_name(
        "featureServices/{service}", data.feature_service, field="pipeline.data.feature_service"
    )
    required = {
        "pipeline.data.label_column": data.label_column,
        "pipeline.trainer.trainer": pipeline.trainer.trainer,
    }
    for field, value in required.items():
        if not value:
            raise InvalidArgument("FIELD_MISSING", "must be set", field=field)
    if data.label_column in data.request_features:
        raise InvalidArgument(
            "LABEL_IS_INPUT",
            "the label can't be an input",
            field="pipeline.data.request_features",
        )
    if evaluation.primary_metric not in METRICS:
        raise InvalidArgument(
            "UNKNOWN_METRIC",
            f"must be one of {', '.join(sorted(METRICS))}",
            field="pipeline.evaluation.primary_metric",
        )
    if not 1 <= evaluation.resamples <= MAX_RESAMPLES:
        raise InvalidArgument(
            "OUT_OF_RANGE",
            f"must be between 1 and {MAX_RESAMPLES}",
            field="pipeline.evaluation.resamples",
        )
    _check_gate(pipeline)
    if pipeline.release is not None:
        parse_name(
            "endpoints/{endpoint}", pipeline.release.endpoint, field="pipeline.release.endpoint"
        )
    _check_spans(pipeline)


def _check_gate(pipeline: Pipeline) -> None:
    gate = pipeline.gate
    if not 0.5 <= gate.confidence < 1:
        raise InvalidArgument(
            "OUT_OF_RANGE", "must be at least 0.5 and below 1", field="pipeline.gate.confidence"
        )
    numbers = {
        "pipeline.gate.min_gain": gate.min_gain,
        "pipeline.gate.max_segment_loss": gate.max_segment_loss,
    }
    for field, value in numbers.items():
        if not math.isfinite(value):
            raise InvalidArgument("NOT_FINITE", "must be finite", field=field)


def _check_spans(pipeline: Pipeline) -> None:
    spans = {
        "pipeline.data.lookback": pipeline.data.lookback,
        "pipeline.evaluation.holdout": pipeline.evaluation.holdout,
    }
    for field, span in spans.items():
        if span is not None and span <= timedelta(0):
            raise InvalidArgument("OUT_OF_RANGE", "must be positive", field=field)


def check_window(start: datetime | None, end: datetime) -> None:
    """Refuses a window that ends before it begins."""
    if start is not None and start >= end:
        raise InvalidArgument("EMPTY_WINDOW", "must lie before window_end", field="window_start")


def holdout_start(
    run: PipelineRun, pipeline: Pipeline, first: datetime, champion_end: datetime | None
) -> datetime:
    """When the holdout begins.

    The champion must not have learned from the holdout, or the comparison would favour it: the
    holdout begins at the end of the champion's window at the earliest.

    Args:
        run: The run.
        pipeline: Its pipeline.
        first: Time of the first row.
        champion_end: End of the champion's data window; None without a champion.
    """
    start = run.window_start or first
    span = pipeline.evaluation.holdout or (run.window_end - start) * DEFAULT_HOLDOUT_SHARE
    begin = run.window_end - span
    return begin if champion_end is None else max(begin, champion_end)


def unique(names: Iterable[str]) -> tuple[str, ...]:
    """Names without repetitions, in their order."""
    return tuple(dict.fromkeys(names))
