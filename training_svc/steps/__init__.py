"""The steps of a run. Each may run twice: its effects carry the run's id as their key."""

from __future__ import annotations

from dataclasses import dataclass

from training_svc.steps.data import Collecting
from training_svc.steps.job import Job
from training_svc.steps.judging import Judging
from training_svc.steps.learning import Learning
from training_svc.steps.releasing import Releasing
from training_svc.steps.shaping import Shaping

__all__ = ["Collecting", "Job", "Judging", "Learning", "Releasing", "Shaping", "Steps"]


@dataclass(frozen=True)
class Steps:
    """What a run does; every result is a JSON document, with what to say of it as `detail`."""

    collecting: Collecting
    learning: Learning
    judging: Judging
    releasing: Releasing
