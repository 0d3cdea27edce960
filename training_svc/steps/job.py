"""A run under way, as its steps see it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from training_svc.domain.encoding import Input
from training_svc.domain.pipelines import Pipeline, PipelineRun, TrainerSpec
from training_svc.ports import Check, Document


def go_on() -> None:
    """Nothing asks the run to stop."""


@dataclass(frozen=True, slots=True)
class Job:
    """A run with its pipeline as it was when the run was asked for.

    Attributes:
        check: Called now and then by long steps; raises when the run should stop.
    """

    run: PipelineRun
    pipeline: Pipeline
    check: Check = go_on

    def key(self, effect: str) -> str:
        """Idempotency key of an effect of this run."""
        return f"{self.run.id}:{effect}"

    @property
    def trainer(self) -> TrainerSpec:
        """The trainer with the run's own settings."""
        spec = self.pipeline.trainer
        return replace(spec, config={**spec.config, **self.run.trainer_config})

    @property
    def parameters(self) -> Mapping[str, str]:
        """Everything that was chosen, as text."""
        settings = {key: str(value) for key, value in sorted(self.trainer.config.items())}
        return {"trainer": self.trainer.trainer, "seed": str(self.pipeline.seed), **settings}


def inputs_of(trained: Document) -> tuple[Input, ...]:
    """Inputs of a trained model, from the result of its step."""
    return tuple(
        Input(**{**each, "categories": tuple(each["categories"])}) for each in trained["inputs"]
    )


def naive_utc(moment: datetime) -> datetime:
    """A moment as numpy takes it."""
    return moment.astimezone(UTC).replace(tzinfo=None)


def short(name: str) -> str:
    """A resource name with its hash cut to twelve characters."""
    kind, _, digest = name.partition("/")
    return f"{kind}/{digest[:12]}"
