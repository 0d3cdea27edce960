"""Between the messages of the contract and the domain."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from modelyard.experiments.v1 import experiments_pb2 as pb

from experiment_svc.domain import (
    DEFAULT_ALPHA,
    DEFAULT_MAX_OUTCOME_DELAY,
    DEFAULT_MIN_SAMPLES,
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
)
from service_kit.errors import InvalidArgument

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DESIGNS = {
    pb.Experiment.DESIGN_PAIRED: Design.PAIRED,
    pb.Experiment.DESIGN_RANDOMIZED: Design.RANDOMIZED,
}
_DESIGN_NUMBERS = {design: number for number, design in _DESIGNS.items()}
_STATE_NUMBERS = {
    State.RUNNING: pb.Experiment.STATE_RUNNING,
    State.CONCLUDED: pb.Experiment.STATE_CONCLUDED,
}
_DECISION_NUMBERS = {
    Decision.CONTINUE: pb.DECISION_CONTINUE,
    Decision.SHIP: pb.DECISION_SHIP,
    Decision.ROLLBACK: pb.DECISION_ROLLBACK,
    Decision.INCONCLUSIVE: pb.DECISION_INCONCLUSIVE,
}


def experiment_from_message(experiment_id: str, message: pb.Experiment) -> Experiment:
    """Read a wanted experiment; what the service itself gives is ignored."""
    if message.design not in _DESIGNS:
        raise InvalidArgument("INVALID_DESIGN", "must be given", field="experiment.design")
    if not message.HasField("primary"):
        raise InvalidArgument("NO_PRIMARY_METRIC", "must be given", field="experiment.primary")
    return Experiment(
        id=experiment_id,
        hypothesis=message.hypothesis,
        subject=message.subject,
        arms=_arms_from(message),
        design=_DESIGNS[message.design],
        primary=_spec_from(message.primary),
        guardrails=tuple(_guardrail_from(item) for item in message.guardrails),
        rule=_rule_from(message.rule),
        max_outcome_delay=_delay_from(message),
        created=_EPOCH,
    )


def _arms_from(message: pb.Experiment) -> tuple[Arm, ...]:
    """The arms; without any weight they have equal shares."""
    weighted = any(arm.weight for arm in message.arms)
    return tuple(Arm(arm.arm, arm.weight if weighted else 1.0) for arm in message.arms)


def _spec_from(message: pb.MetricSpec) -> MetricSpec:
    return MetricSpec(message.metric, message.higher_is_better)


def _guardrail_from(message: pb.Guardrail) -> Guardrail:
    return Guardrail(
        _spec_from(message.metric), message.max_value or None, message.max_ratio or None
    )


def _rule_from(message: pb.DecisionRule) -> DecisionRule:
    return DecisionRule(
        alpha=message.alpha or DEFAULT_ALPHA,
        margin=message.margin,
        min_samples=message.min_samples or DEFAULT_MIN_SAMPLES,
        max_samples=message.max_samples or None,
    )


def _delay_from(message: pb.Experiment) -> timedelta:
    if not message.HasField("max_outcome_delay"):
        return DEFAULT_MAX_OUTCOME_DELAY
    delay = message.max_outcome_delay
    try:
        return timedelta(seconds=delay.seconds, microseconds=delay.nanos // 1_000)
    except OverflowError:
        return timedelta.max


def experiment_to_message(experiment: Experiment) -> pb.Experiment:
    """Show an experiment."""
    rule = experiment.rule
    delay = Duration()
    delay.FromTimedelta(experiment.max_outcome_delay)
    return pb.Experiment(
        name=experiment_name(experiment.id),
        hypothesis=experiment.hypothesis,
        subject=experiment.subject,
        arms=[pb.Arm(arm=arm.name, weight=arm.weight) for arm in experiment.arms],
        design=_DESIGN_NUMBERS[experiment.design],
        primary=_spec_to(experiment.primary),
        guardrails=[
            pb.Guardrail(
                metric=_spec_to(item.metric),
                max_value=item.max_value or 0,
                max_ratio=item.max_ratio or 0,
            )
            for item in experiment.guardrails
        ],
        rule=pb.DecisionRule(
            alpha=rule.alpha,
            margin=rule.margin,
            min_samples=rule.min_samples,
            max_samples=rule.max_samples or 0,
        ),
        state=_STATE_NUMBERS[experiment.state],
        max_outcome_delay=delay,
        create_time=_timestamp(experiment.created),
        conclude_time=_timestamp(experiment.concluded) if experiment.concluded else None,
        conclusion=experiment.conclusion,
    )


def analysis_to_message(experiment_id: str, analysis: Analysis) -> pb.Analysis:
    """Show an analysis."""
    verdict = analysis.verdict
    newest = None
    if verdict.newest_us:
        newest = _timestamp(_EPOCH + timedelta(microseconds=verdict.newest_us))
    return pb.Analysis(
        name=f"{experiment_name(experiment_id)}/analyses/{analysis.id}",
        decision=_DECISION_NUMBERS[verdict.decision],
        reasons=verdict.reasons,
        samples=verdict.samples,
        primary=_comparison_to(verdict.primary) if verdict.primary else None,
        guardrails=[_comparison_to(item) for item in verdict.guardrails],
        srm_p_value=verdict.srm_p_value,
        create_time=_timestamp(analysis.created),
        event_time=newest,
    )


def experiment_name(experiment_id: str) -> str:
    """Resource name of an experiment."""
    return f"experiments/{experiment_id}"


def _spec_to(spec: MetricSpec) -> pb.MetricSpec:
    return pb.MetricSpec(metric=spec.metric, higher_is_better=spec.higher_is_better)


def _comparison_to(found: Comparison) -> pb.Comparison:
    return pb.Comparison(
        metric=found.metric,
        control=found.control,
        treatment=found.treatment,
        improvement=found.improvement,
        lower=found.lower,
        upper=found.upper,
        p_value=found.p_value,
        control_samples=found.control_samples,
        treatment_samples=found.treatment_samples,
        breached=found.breached,
    )


def _timestamp(moment: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp
