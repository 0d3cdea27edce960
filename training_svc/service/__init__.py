"""Use cases of training."""

from training_svc.service.conversions import Conversions
from training_svc.service.pipelines import APPROVAL, QUEUE, WORKFLOW, RunRequest, Training

__all__ = ["APPROVAL", "QUEUE", "WORKFLOW", "Conversions", "RunRequest", "Training"]
