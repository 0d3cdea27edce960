"""The built-in data checks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from service_kit import plugins
from service_kit.errors import DomainError, InvalidArgument
from tests.training_svc.examples import pipeline
from training_svc.domain.pipelines import DataCheck, TrainerSpec
from training_svc.plugins import TRAINERS, VALIDATORS, check_plugins, make_validator

COLUMNS: dict[str, Any] = {
    "delay": np.array([0.0, 5.0, np.nan, 100.0]),
    "late": np.array([0.0, 0.0, 0.0, 1.0]),
    "carrier": np.array(["AA", "UA", None, ""], object),
    "empty": np.full(4, np.nan),
    "landed": np.array(["2013-01-01", "NaT", "NaT", "NaT"], "datetime64[us]"),
}


class FourRows:
    row_count = 4

    def column(self, name: str) -> Any:
        return COLUMNS[name]


@pytest.mark.parametrize(
    ("name", "column", "config", "found"),
    [
        ("row_count", "", {"min": 4}, ""),
        ("row_count", "", {"min": 5}, "4 rows, at least 5 are needed"),
        ("row_count", "", {"max": 3}, "4 rows, at most 3 are expected"),
        ("null_share", "delay", {"max": 0.25}, ""),
        ("null_share", "delay", {"max": 0.2}, "25.0% of delay is missing, at most 20.0% may be"),
        ("null_share", "carrier", {"max": 0.2}, "50.0% of carrier is missing"),
        ("null_share", "landed", {"max": 0.2}, "75.0% of landed is missing"),
        ("value_range", "delay", {"min": 0, "max": 100}, ""),
        ("value_range", "delay", {"max": 99}, "33.33% of delay lies outside [-inf, 99]"),
        ("value_range", "delay", {"max": 99, "max_share": 0.34}, ""),
        ("value_range", "carrier", {"max": 99}, "carrier is not numeric"),
        ("value_range", "empty", {"max": 99}, ""),
        ("label_ratio", "late", {"min": 0.2, "max": 0.3}, ""),
        ("label_ratio", "late", {"min": 0.3}, "25.00% of late is positive, expected 30.00% to"),
        ("label_ratio", "empty", {}, "empty has no values"),
        ("categories", "carrier", {"allowed": ["AA", "UA"]}, ""),
        ("categories", "carrier", {"allowed": ["AA"]}, "carrier holds 1 unknown categories"),
        ("categories", "late", {"allowed": ["0", "1"]}, ""),
    ],
)
def test_checks_say_what_is_wrong(
    name: str, column: str, config: dict[str, Any], found: str
) -> None:
    said = make_validator(name, config).check(FourRows(), column)
    assert "; ".join(said).startswith(found)
    assert bool(said) is bool(found)


@pytest.mark.parametrize("group", [TRAINERS, VALIDATORS])
def test_the_built_in_plugins_conform(group: str) -> None:
    listed = [each for each in plugins.discover(group) if each.distribution == "modelyard"]
    assert len(listed) >= 2
    for each in listed:
        assert plugins.check(group, each.name) == []


@pytest.mark.parametrize(
    ("trainer", "checks", "field"),
    [
        (TrainerSpec("nonsense"), (), "pipeline.trainer"),
        (TrainerSpec("lightgbm", {"num_leaves": 1}), (), "pipeline.trainer.config.num_leaves"),
        (TrainerSpec("lightgbm", {"colour": 1}), (), "pipeline.trainer.config.colour"),
        (TrainerSpec("logistic"), (DataCheck("nonsense"),), "pipeline.checks[0]"),
        (
            TrainerSpec("logistic"),
            (DataCheck("row_count"), DataCheck("null_share", "x", {"max": 2})),
            "pipeline.checks[1].config.max",
        ),
    ],
)
def test_wrong_plugins_are_refused_by_field(
    trainer: TrainerSpec, checks: tuple[DataCheck, ...], field: str
) -> None:
    with pytest.raises(InvalidArgument) as error:
        check_plugins(trainer, checks)
    assert (error.value.field or "").startswith(field)


def test_the_plugins_of_the_example_are_accepted() -> None:
    try:
        check_plugins(pipeline().trainer, pipeline().checks)
    except DomainError as error:
        pytest.fail(str(error))
