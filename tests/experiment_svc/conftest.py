"""An experiment, and rows of it, for the tests of this service."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from experiment_svc.domain import (
    Arm,
    DecisionRule,
    Design,
    Experiment,
    Exposures,
    MetricSpec,
)

MakeExperiment = Callable[..., Experiment]
MakeRows = Callable[..., Exposures]


@pytest.fixture
def make_experiment() -> MakeExperiment:
    """Make a paired experiment on the Brier score; any field may be given."""

    def make(**fields: object) -> Experiment:
        base = Experiment(
            id="exp-1",
            hypothesis="the challenger predicts better",
            subject="endpoints/late/rollouts/1",
            arms=(Arm("champion"), Arm("challenger")),
            design=Design.PAIRED,
            primary=MetricSpec("brier"),
            guardrails=(),
            rule=DecisionRule(),
            max_outcome_delay=timedelta(days=2),
            created=datetime(2026, 1, 1, tzinfo=UTC),
        )
        return replace(base, **fields)  # type: ignore[arg-type]

    return make


@pytest.fixture
def make_rows() -> MakeRows:
    """Make rows that both arms answered within 1 ms; any column may be given."""

    def make(n: int, **columns: object) -> Exposures:
        rng = np.random.default_rng(n)
        base = Exposures(
            assigned=np.zeros(n, dtype=np.int64),
            scores=rng.random((n, 2)),
            latencies_us=np.full((n, 2), 1_000.0),
            failed=np.zeros((n, 2)),
            event_times_us=np.arange(n, dtype=np.int64) * 1_000_000,
        )
        return replace(base, **columns)  # type: ignore[arg-type]

    return make
