"""The rules of experiments: plans, evidence, statistics that may be looked at any time, verdicts.

Pure: no database, no stream, no transport. Everything others need is named here.
"""

from experiment_svc.domain.allocation import SLOTS, assign, bucket, upper_edges
from experiment_svc.domain.comparison import Comparison, Pair, breaches, compare, contrast, pair
from experiment_svc.domain.decision import SRM_ALPHA, Analysis, Decision, Verdict, analyze
from experiment_svc.domain.evidence import Evidence, Kind, Series, Tally, gather
from experiment_svc.domain.metrics import METRICS, Metric, Source, find_metric
from experiment_svc.domain.moments import Moments, grouped, merge
from experiment_svc.domain.observation import DAY_US, Exposures, exposed, observed
from experiment_svc.domain.plans import (
    DEFAULT_ALPHA,
    DEFAULT_MAX_OUTCOME_DELAY,
    DEFAULT_MIN_SAMPLES,
    Arm,
    DecisionRule,
    Design,
    Experiment,
    Guardrail,
    MetricSpec,
    State,
    check,
    conclude,
)
from experiment_svc.domain.sequences import Interval, Sequence
from experiment_svc.domain.srm import srm_p_value

__all__ = [
    "DAY_US",
    "DEFAULT_ALPHA",
    "DEFAULT_MAX_OUTCOME_DELAY",
    "DEFAULT_MIN_SAMPLES",
    "METRICS",
    "SLOTS",
    "SRM_ALPHA",
    "Analysis",
    "Arm",
    "Comparison",
    "Decision",
    "DecisionRule",
    "Design",
    "Evidence",
    "Experiment",
    "Exposures",
    "Guardrail",
    "Interval",
    "Kind",
    "Metric",
    "MetricSpec",
    "Moments",
    "Pair",
    "Sequence",
    "Series",
    "Source",
    "State",
    "Tally",
    "Verdict",
    "analyze",
    "assign",
    "breaches",
    "bucket",
    "check",
    "compare",
    "conclude",
    "contrast",
    "exposed",
    "find_metric",
    "gather",
    "grouped",
    "merge",
    "observed",
    "pair",
    "srm_p_value",
    "upper_edges",
]
