"""A training task, and how it is carried out wherever it lands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service_kit.errors import DomainError
from training_svc.domain.pipelines import TrainerSpec
from training_svc.plugins import make_trainer
from training_svc.trainers import Fitted


@dataclass(frozen=True)
class Task:
    """A trainer with its settings, what it needs, and its data: n x names inputs, n labels."""

    trainer: str
    config: dict[str, Any]
    cpus: float
    gpus: float
    names: list[str]
    seed: int
    inputs: NDArray[np.float32]
    labels: NDArray[np.float64]

    @property
    def spec(self) -> TrainerSpec:
        """Trainer, settings and needs."""
        return TrainerSpec(self.trainer, self.config, self.cpus, self.gpus)


@dataclass(frozen=True)
class Trouble:
    """Why there is no model; `passing` when another try may do better.

    A value and no exception: those of plugins need not survive the way between processes.
    """

    reason: str
    message: str
    passing: bool = False


def fit_here(task: Task) -> Fitted | Trouble:
    """Fits a trainer plugin in this process."""
    threads = max(1, int(task.cpus))
    try:
        trainer = make_trainer(task.trainer, task.config)
        return trainer.fit(task.inputs, task.labels, task.names, task.seed, threads)
    except DomainError as error:
        return Trouble(error.reason, error.message)
    except Exception as error:
        return Trouble("TRAINING_FAILED", f"the trainer failed with {type(error).__name__}")
