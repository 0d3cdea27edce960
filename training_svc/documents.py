"""Pipelines, runs and conversions as JSON documents and back."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any

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

Document = dict[str, Any]


def pipeline_document(pipeline: Pipeline) -> Document:
    """Makes a JSON document of a pipeline."""
    plain: Document = _plain(asdict(pipeline))
    return plain


def pipeline_from(document: Document) -> Pipeline:
    """Reads a pipeline from its document."""
    data, gate, evaluation = document["data"], document["gate"], document["evaluation"]
    release = document["release"]
    return Pipeline(
        **{
            **document,
            "create_time": datetime.fromisoformat(document["create_time"]),
            "update_time": datetime.fromisoformat(document["update_time"]),
            "data": DataSpec(
                **{
                    **data,
                    "request_features": tuple(data["request_features"]),
                    "categorical_features": tuple(data["categorical_features"]),
                    "optional_features": tuple(data["optional_features"]),
                    "lookback": _span(data["lookback"]),
                }
            ),
            "trainer": TrainerSpec(**document["trainer"]),
            "checks": tuple(DataCheck(**each) for each in document["checks"]),
            "evaluation": EvaluationSpec(
                **{
                    **evaluation,
                    "segments": tuple(evaluation["segments"]),
                    "holdout": _span(evaluation["holdout"]),
                }
            ),
            "gate": GateSpec(
                **{**gate, "bounds": tuple(MetricBound(**each) for each in gate["bounds"])}
            ),
            # Documents of earlier days have none.
            "conversion": ConversionSpec(**document.get("conversion", {})),
            "release": None if release is None else ReleaseSpec(**release),
        }
    )


def run_document(run: PipelineRun) -> Document:
    """Makes a JSON document of a run."""
    plain: Document = _plain(asdict(run))
    return plain


def run_from(document: Document) -> PipelineRun:
    """Reads a run from its document."""
    trigger = document["trigger"]
    return PipelineRun(
        **{
            **document,
            "state": RunState(document["state"]),
            "trigger": Trigger(**{**trigger, "kind": TriggerKind(trigger["kind"])}),
            "steps": tuple(_step(each) for each in document["steps"]),
            **{
                name: _moment(document[name])
                for name in ("window_start", "window_end", "create_time", "end_time")
            },
        }
    )


def conversion_document(conversion: Conversion) -> Document:
    """Makes a JSON document of a conversion."""
    plain: Document = _plain(asdict(conversion))
    return plain


def conversion_from(document: Document) -> Conversion:
    """Reads a conversion from its document."""
    return Conversion(
        **{
            **document,
            "spec": ConversionSpec(**document["spec"]),
            "state": ConversionState(document["state"]),
            "artifacts": tuple(tuple(each) for each in document["artifacts"]),
            "parity_reports": tuple(document["parity_reports"]),
            "inputs": tuple(document["inputs"]),
            "create_time": _moment(document["create_time"]),
            "end_time": _moment(document["end_time"]),
        }
    )


def _step(document: Document) -> StepRecord:
    return StepRecord(
        **{
            **document,
            "state": StepState(document["state"]),
            "start_time": _moment(document["start_time"]),
            "end_time": _moment(document["end_time"]),
        }
    )


def _plain(value: Any) -> Any:
    """Times as text, spans as seconds, tuples as lists."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    return value


def _moment(text: str | None) -> Any:
    return None if text is None else datetime.fromisoformat(text)


def _span(seconds: float | None) -> timedelta | None:
    return None if seconds is None else timedelta(seconds=seconds)
