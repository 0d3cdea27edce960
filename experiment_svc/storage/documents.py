"""Plans and verdicts as JSON documents, and back."""

from __future__ import annotations

from dataclasses import asdict
from datetime import timedelta
from typing import Any

from experiment_svc.domain import (
    Analysis,
    Arm,
    Comparison,
    Decision,
    DecisionRule,
    Design,
    Experiment,
    Guardrail,
    MetricSpec,
    State,
    Verdict,
)
from experiment_svc.storage.tables import AnalysisRow, ExperimentRow

_MICROSECOND = timedelta(microseconds=1)


def experiment_to_row(experiment: Experiment) -> ExperimentRow:
    """Make the row of an experiment that has seen nothing."""
    return ExperimentRow(
        id=experiment.id,
        state=experiment.state.value,
        plan={
            "hypothesis": experiment.hypothesis,
            "subject": experiment.subject,
            "arms": [asdict(arm) for arm in experiment.arms],
            "design": experiment.design.value,
            "primary": asdict(experiment.primary),
            "guardrails": [asdict(guardrail) for guardrail in experiment.guardrails],
            "rule": asdict(experiment.rule),
        },
        created=experiment.created,
        concluded=experiment.concluded,
        conclusion=experiment.conclusion,
        max_delay_us=experiment.max_outcome_delay // _MICROSECOND,
        newest_us=0,
    )


def experiment_from_row(row: ExperimentRow) -> Experiment:
    """Read an experiment."""
    plan = row.plan
    return Experiment(
        id=row.id,
        hypothesis=plan["hypothesis"],
        subject=plan["subject"],
        arms=tuple(Arm(**arm) for arm in plan["arms"]),
        design=Design(plan["design"]),
        primary=MetricSpec(**plan["primary"]),
        guardrails=tuple(_guardrail(item) for item in plan["guardrails"]),
        rule=DecisionRule(**plan["rule"]),
        max_outcome_delay=row.max_delay_us * _MICROSECOND,
        created=row.created,
        state=State(row.state),
        concluded=row.concluded,
        conclusion=row.conclusion,
    )


def _guardrail(item: dict[str, Any]) -> Guardrail:
    return Guardrail(**{**item, "metric": MetricSpec(**item["metric"])})


def analysis_to_row(number: int, analysis: Analysis) -> AnalysisRow:
    """Make the row of an analysis of the experiment of that number."""
    verdict = {**asdict(analysis.verdict), "decision": analysis.verdict.decision.value}
    return AnalysisRow(id=analysis.id, experiment=number, created=analysis.created, verdict=verdict)


def analysis_from_row(row: AnalysisRow) -> Analysis:
    """Read an analysis."""
    found = dict(row.verdict)
    primary = found["primary"]
    found |= {
        "decision": Decision(found["decision"]),
        "reasons": tuple(found["reasons"]),
        "primary": None if primary is None else Comparison(**primary),
        "guardrails": tuple(Comparison(**item) for item in found["guardrails"]),
    }
    return Analysis(row.id, row.created, Verdict(**found))
