"""Use cases of experiments, and the ports that they need."""

from experiment_svc.service.experiments import Experiments
from experiment_svc.service.ingestion import ExposureBatch, Ingestion, OutcomeBatch
from experiment_svc.service.ports import Exposed, Journal, Records
from experiment_svc.service.retention import Retention

__all__ = [
    "Experiments",
    "Exposed",
    "ExposureBatch",
    "Ingestion",
    "Journal",
    "OutcomeBatch",
    "Records",
    "Retention",
]
