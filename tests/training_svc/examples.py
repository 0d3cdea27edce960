"""Examples of pipelines and runs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from training_svc.domain.pipelines import (
    DataCheck,
    DataSpec,
    EvaluationSpec,
    GateSpec,
    MetricBound,
    Pipeline,
    PipelineRun,
    ReleaseSpec,
    TrainerSpec,
    Trigger,
    TriggerKind,
)

WHEN = datetime(2013, 4, 1, 12, 30, tzinfo=UTC)
RUN_ID = "01900000-0000-7000-8000-000000000001"


def pipeline(**changes: Any) -> Pipeline:
    """A pipeline that may be created."""
    fields = {
        "id": "late",
        "description": "late arrivals",
        "model": "models/late-arrival",
        "data": DataSpec(
            label_source="dataSources/flights",
            label_column="late",
            feature_service="featureServices/flights",
            label_time_column="landed",
            request_features=("hour", "carrier"),
            categorical_features=("carrier",),
            optional_features=("delay",),
            lookback=timedelta(days=90),
        ),
        "checks": (
            DataCheck("row_count", "", {"min": 100}),
            DataCheck("null_share", "delay", {"max": 0.5}),
        ),
        "trainer": TrainerSpec("lightgbm", {"num_iterations": 20, "learning_rate": 0.1}, 2.0),
        "evaluation": EvaluationSpec("pr_auc", timedelta(days=14), ("carrier",), 200, refit=True),
        "gate": GateSpec(0.001, 0.9, (MetricBound("brier", maximum=0.3),), 0.2),
        "release": ReleaseSpec("endpoints/late-arrival", {"skip_shadow": True}),
        "schedule": "0 3 * * *",
        "seed": 7,
        "create_time": WHEN,
        "update_time": WHEN,
        **changes,
    }
    return Pipeline(**fields)


def run(**changes: Any) -> PipelineRun:
    """A run that was asked for."""
    fields = {
        "id": RUN_ID,
        "pipeline": "late",
        "trigger": Trigger(TriggerKind.DRIFT, "PSI 0.3", "alerts/1"),
        "window_end": WHEN,
        "window_start": WHEN - timedelta(days=90),
        "create_time": WHEN,
        **changes,
    }
    return PipelineRun(**fields)
