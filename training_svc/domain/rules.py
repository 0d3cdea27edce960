"""What a pipeline must be, and which rows a run holds out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

from service_kit.errors import InvalidArgument
from service_kit.names import parse_name
from training_svc.domain.metrics import METRICS, PRIMARY
from training_svc.domain.pipelines import ConversionSpec, Pipeline, PipelineRun

DEFAULT_HOLDOUT_SHARE = 0.2
MAX_RESAMPLES = 10_000
MAX_CONFIDENCE = 0.9999
MAX_GAIN = 1e6
MAX_CPUS = 4096
MAX_SEED = 2**31 - 1
BOUNDABLE = (*METRICS, "model_bytes", "row_latency_us")


def check_pipeline(pipeline: Pipeline) -> None:
    """Refuses a pipeline that could not run.

    Raises:
        InvalidArgument: Names the field at fault.
    """
    data = pipeline.data
    parse_name("models/{model}", pipeline.model, field="pipeline.model")
    parse_name("dataSources/{source}", data.label_source, field="pipeline.data.label_source")
    parse_name(
        "featureServices/{service}", data.feature_service, field="pipeline.data.feature_service"
    )
    if pipeline.release is not None:
        parse_name(
            "endpoints/{endpoint}", pipeline.release.endpoint, field="pipeline.release.endpoint"
        )
    required = {
        "data.label_column": data.label_column,
        "trainer.trainer": pipeline.trainer.trainer,
    }
    for field, value in required.items():
        if not value:
            raise InvalidArgument("FIELD_MISSING", "must be set", field=f"pipeline.{field}")
    if data.label_column in data.request_features:
        raise InvalidArgument(
            "LABEL_IS_INPUT",
            "the label can't be an input",
            field="pipeline.data.request_features",
        )
    _check_metrics(pipeline)
    _check_numbers(pipeline)
    _check_spans(pipeline)


def _check_metrics(pipeline: Pipeline) -> None:
    if pipeline.evaluation.primary_metric not in PRIMARY:
        raise InvalidArgument(
            "UNKNOWN_METRIC",
            f"must be one of {', '.join(PRIMARY)}",
            field="pipeline.evaluation.primary_metric",
        )
    for at, bound in enumerate(pipeline.gate.bounds):
        field = f"pipeline.gate.bounds[{at}]"
        if bound.metric not in BOUNDABLE:
            raise InvalidArgument(
                "UNKNOWN_METRIC", f"must be one of {', '.join(BOUNDABLE)}", field=f"{field}.metric"
            )
        given = [each for each in (bound.minimum, bound.maximum) if each is not None]
        if not given:
            raise InvalidArgument("FIELD_MISSING", "needs a minimum or a maximum", field=field)
        if not all(math.isfinite(each) for each in given) or given != sorted(given):
            raise InvalidArgument(
                "OUT_OF_RANGE", "must be finite, and the minimum not above the maximum", field=field
            )


def _check_numbers(pipeline: Pipeline) -> None:
    gate, trainer = pipeline.gate, pipeline.trainer
    check_conversion(pipeline.conversion, "pipeline.conversion")
    ranges = {
        "evaluation.resamples": (pipeline.evaluation.resamples, 1, MAX_RESAMPLES),
        "gate.min_gain": (gate.min_gain, -MAX_GAIN, MAX_GAIN),
        "gate.confidence": (gate.confidence, 0.5, MAX_CONFIDENCE),
        "gate.max_segment_loss": (gate.max_segment_loss, 0, MAX_GAIN),
        "trainer.cpus": (trainer.cpus, 0.01, MAX_CPUS),
        "trainer.gpus": (trainer.gpus, 0, MAX_CPUS),
        "seed": (pipeline.seed, 0, MAX_SEED),
    }
    _check_ranges(ranges, "pipeline")


def check_conversion(spec: ConversionSpec, path: str) -> None:
    """Refuses bounds that can't be kept, or that anything keeps.

    Raises:
        InvalidArgument: Names the field below `path`.
    """
    ranges = {
        "tolerance": (spec.tolerance, 0, MAX_GAIN),
        "max_share_beyond": (spec.max_share_beyond, 0, 1),
        "quantize_tolerance": (spec.quantize_tolerance, 0, MAX_GAIN),
        "quantize_max_share_beyond": (spec.quantize_max_share_beyond, 0, 1),
    }
    _check_ranges(ranges, path)


def _check_ranges(ranges: Mapping[str, tuple[float, float, float]], path: str) -> None:
    for field, (value, low, high) in ranges.items():
        if not low <= value <= high:
            raise InvalidArgument(
                "OUT_OF_RANGE", f"must be from {low} to {high}", field=f"{path}.{field}"
            )


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
