"""Trainers and validators by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

from service_kit.errors import DomainError, InvalidArgument
from service_kit.plugins import configure, load
from training_svc.domain.pipelines import DataCheck, TrainerSpec
from training_svc.trainers import Trainer
from training_svc.validators import Validator

TRAINERS = "modelyard.trainers"
VALIDATORS = "modelyard.validators"


def make_trainer(name: str, config: Mapping[str, Any]) -> Trainer:
    """Makes a trainer plugin.

    Raises:
        DomainError: There is no such plugin, or its settings are wrong.
    """
    return cast(Trainer, configure(load(TRAINERS, name), config))


def make_validator(name: str, config: Mapping[str, Any]) -> Validator:
    """Makes a validator plugin."""
    return cast(Validator, configure(load(VALIDATORS, name), config))


def check_plugins(trainer: TrainerSpec, checks: Iterable[DataCheck]) -> None:
    """Refuses plugins that are not there or settings that they do not take.

    Raises:
        InvalidArgument: Names the field at fault.
    """
    try:
        make_trainer(trainer.trainer, trainer.config)
    except DomainError as error:
        raise _at("pipeline.trainer", error) from error
    for at, check in enumerate(checks):
        try:
            make_validator(check.validator, check.config)
        except DomainError as error:
            raise _at(f"pipeline.checks[{at}]", error) from error


def _at(path: str, error: DomainError) -> InvalidArgument:
    field = f"{path}.{error.field}" if error.field else path
    return InvalidArgument(error.reason, error.message, field=field)
