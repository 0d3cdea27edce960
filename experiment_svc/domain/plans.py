"""Experiments: the plan, fixed before the first look, and its short life."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import Enum

from experiment_svc.domain.metrics import Metric, Source, find_metric
from service_kit.errors import FailedPrecondition, InvalidArgument

DEFAULT_ALPHA = 0.05
DEFAULT_MIN_SAMPLES = 100
DEFAULT_MAX_OUTCOME_DELAY = timedelta(days=90)
LONGEST_OUTCOME_DELAY = timedelta(days=400)
FEWEST_SAMPLES = 20
"""Below this the central limit theorem has not begun to hold and no interval can be trusted."""
MOST_GUARDRAILS = 20
_LONGEST_TEXT = 4_000


class Design(Enum):
    """How the arms are compared."""

    PAIRED = "paired"
    RANDOMIZED = "randomized"


class State(Enum):
    """Whether exposures and outcomes still count."""

    RUNNING = "running"
    CONCLUDED = "concluded"


@dataclass(frozen=True, slots=True)
class Arm:
    """A variant and its intended share of the units, of a sum over all arms."""

    name: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """A metric and its direction."""

    metric: str
    higher_is_better: bool = False

    @property
    def definition(self) -> Metric:
        """The metric itself."""
        return find_metric(self.metric)

    def improvement(self, change: float) -> float:
        """Turn "treatment minus control" so that positive is better."""
        return change if self.higher_is_better else -change


@dataclass(frozen=True, slots=True)
class Guardrail:
    """A metric whose mean in the treatment must stay within a bound.

    Attributes:
        metric: The metric.
        max_value: Largest mean, in the metric's unit; None for no such bound.
        max_ratio: Largest mean relative to the control's; None for no such bound.
    """

    metric: MetricSpec
    max_value: float | None = None
    max_ratio: float | None = None


@dataclass(frozen=True, slots=True)
class DecisionRule:
    """When the data decide.

    Attributes:
        alpha: Error rate over all looks together.
        margin: Loss that is tolerated, in the metric's unit; 0 asks for an improvement.
        min_samples: Values of a mean before it may decide anything: of the differences in a
            paired design, of each arm in a randomized one.
        max_samples: Units with an outcome at which an undecided experiment is inconclusive;
            None for no limit.
    """

    alpha: float = DEFAULT_ALPHA
    margin: float = 0.0
    min_samples: int = DEFAULT_MIN_SAMPLES
    max_samples: int | None = None

    @property
    def tuned_for(self) -> int:
        """Sample size at which the intervals are the narrowest.

        Five times the first look, because a decision usually falls early, and a larger sample
        than the one tuned for costs far less width than a smaller one.
        """
        return min(5 * self.min_samples, self.max_samples or 5 * self.min_samples)


@dataclass(frozen=True, slots=True)
class Experiment:
    """What is compared, by which rule; the first arm is the control."""

    id: str
    hypothesis: str
    subject: str
    arms: tuple[Arm, ...]
    design: Design
    primary: MetricSpec
    guardrails: tuple[Guardrail, ...]
    rule: DecisionRule
    max_outcome_delay: timedelta
    created: datetime
    state: State = State.RUNNING
    concluded: datetime | None = None
    conclusion: str = ""

    @property
    def specs(self) -> tuple[MetricSpec, ...]:
        """Every metric of the plan, the primary first."""
        return (self.primary, *(guardrail.metric for guardrail in self.guardrails))

    @property
    def weights(self) -> tuple[float, ...]:
        """Intended shares of the arms, in their order."""
        return tuple(arm.weight for arm in self.arms)


def check(experiment: Experiment) -> Experiment:
    """Return a new experiment, or refuse its plan.

    Raises:
        InvalidArgument: With the field at fault.
    """
    _check_text(experiment.hypothesis, "experiment.hypothesis")
    _check_text(experiment.subject, "experiment.subject")
    _check_arms(experiment.arms, experiment.design)
    _check_metric(experiment.primary, experiment.design, "experiment.primary.metric")
    _check_rule(experiment.rule)
    _check_guardrails(experiment.guardrails, experiment.design)
    if not timedelta() < experiment.max_outcome_delay <= LONGEST_OUTCOME_DELAY:
        raise InvalidArgument(
            "INVALID_OUTCOME_DELAY",
            f"must be positive and at most {LONGEST_OUTCOME_DELAY.days} days",
            field="experiment.max_outcome_delay",
        )
    return experiment


def conclude(experiment: Experiment, conclusion: str, now: datetime) -> Experiment:
    """End a running experiment.

    Raises:
        FailedPrecondition: `EXPERIMENT_CONCLUDED` when it has ended already.
    """
    if experiment.state is State.CONCLUDED:
        raise FailedPrecondition("EXPERIMENT_CONCLUDED", "the experiment has ended", field="name")
    _check_text(conclusion, "conclusion")
    return replace(experiment, state=State.CONCLUDED, concluded=now, conclusion=conclusion)


def _check_text(text: str, field: str) -> None:
    if len(text) > _LONGEST_TEXT:
        raise InvalidArgument(
            "TEXT_TOO_LONG", f"must have at most {_LONGEST_TEXT} characters", field=field
        )


def _check_arms(arms: Sequence[Arm], design: Design) -> None:
    if len(arms) != 2:
        raise InvalidArgument(
            "ARMS_NOT_TWO", "must be a control and one treatment", field="experiment.arms"
        )
    names = [arm.name for arm in arms]
    if not all(names) or len(set(names)) < len(names):
        raise InvalidArgument(
            "INVALID_ARM", "must have different names, none empty", field="experiment.arms.arm"
        )
    # A shadow has no share of the answers, and pairs need none.
    least = 0.0 if design is Design.PAIRED else 1e-9
    if not all(least <= arm.weight < math.inf for arm in arms):
        raise InvalidArgument(
            "INVALID_WEIGHTS", "must be finite and positive", field="experiment.arms.weight"
        )


def _check_metric(spec: MetricSpec, design: Design, field: str) -> None:
    metric = find_metric(spec.metric, field)
    if metric.source is not Source.OUTCOME and spec.higher_is_better:
        raise InvalidArgument(
            "INVALID_DIRECTION",
            "losses, latency and errors are better when less",
            field=field.removesuffix("metric") + "higher_is_better",
        )
    if metric.source is Source.OUTCOME and design is Design.PAIRED:
        raise InvalidArgument(
            "METRIC_NOT_PAIRED", "arms that score the same unit share its outcome", field=field
        )


def _check_rule(rule: DecisionRule) -> None:
    limit = rule.max_samples
    found = {
        "alpha": ("must lie between 0.00001 and 0.5", 1e-5 <= rule.alpha <= 0.5),
        "margin": ("must be finite and not negative", 0 <= rule.margin < math.inf),
        "min_samples": (f"must be at least {FEWEST_SAMPLES}", rule.min_samples >= FEWEST_SAMPLES),
        "max_samples": (
            "must not be less than min_samples",
            limit is None or limit >= rule.min_samples,
        ),
    }
    for name, (message, fine) in found.items():
        if not fine:
            raise InvalidArgument("INVALID_RULE", message, field=f"experiment.rule.{name}")


def _check_guardrails(guardrails: Sequence[Guardrail], design: Design) -> None:
    field = "experiment.guardrails"
    if len(guardrails) > MOST_GUARDRAILS:
        raise InvalidArgument(
            "TOO_MANY_GUARDRAILS", f"must be at most {MOST_GUARDRAILS}", field=field
        )
    if len({guardrail.metric.metric for guardrail in guardrails}) < len(guardrails):
        raise InvalidArgument("DUPLICATE_GUARDRAIL", "must name each metric once", field=field)
    for guardrail in guardrails:
        _check_metric(guardrail.metric, design, f"{field}.metric.metric")
        bounds = [b for b in (guardrail.max_value, guardrail.max_ratio) if b is not None]
        if not bounds or not all(0 < bound < math.inf for bound in bounds):
            raise InvalidArgument(
                "INVALID_GUARDRAIL", "must have a finite, positive bound", field=field
            )
