"""Which form of a model serves, with real trainers and runtimes."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from service_kit.errors import FailedPrecondition
from tests.training_svc.test_quantization import network
from tests.training_svc.test_trainers import CONFIGS, Inputs, Labels, data, fit
from training_svc.domain.pipelines import ConversionSpec
from training_svc.plugins import make_trainer
from training_svc.quantization import quantize
from training_svc.scoring import load_model
from training_svc.steps import Shaping
from training_svc.trainers import Fitted

SHAPING = Shaping(load_model, quantize)
QUANTIZED = ConversionSpec(quantize=True)


@cache
def rows() -> tuple[Inputs, Labels]:
    return data(2000)


@cache
def trained(name: str) -> Fitted:
    return fit(name, *rows())


@cache
def neural() -> Fitted:
    model = network()
    scores = load_model("onnx", model, 5)(rows()[0])
    return Fitted("onnx", model, "onnx", {}, [], scores)


def bent(fitted: Fitted, at: int, by: float) -> Fitted:
    """As if the conversion had changed one row."""
    scores = fitted.predictions.copy()
    scores[at] += by
    return replace(fitted, predictions=scores)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_converted_form_serves_when_it_scores_alike(name: str) -> None:
    fitted = trained(name)
    shaped = SHAPING.shape(fitted, *rows(), ConversionSpec())
    assert (shaped.fitted, shaped.remark) == (fitted, "")
    (made,) = shaped.made
    assert made.parity.passed
    assert (made.parity.row_count, made.parity.tolerance) == (2000, 1e-4)
    assert 0 <= made.parity.max_abs_diff < 1e-5
    assert made.parity.target_bytes == len(made.target) == len(fitted.model)
    assert made.source == (fitted.files[next(iter(fitted.files))][1] if fitted.files else b"")


def test_the_native_form_serves_when_the_converted_one_differs() -> None:
    other = trained("xgboost").model
    fitted = replace(trained("lightgbm"), model=other)
    shaped = SHAPING.shape(fitted, *rows(), ConversionSpec())
    assert (shaped.fitted.runtime, shaped.fitted.model_format) == ("lightgbm", "lightgbm")
    assert shaped.fitted.model == fitted.files["model.txt"][1]
    assert shaped.fitted.files == {}
    (made,) = shaped.made
    assert not made.parity.passed
    assert made.parity.max_abs_diff > 1e-3
    assert (made.source, made.target) == (shaped.fitted.model, b"")
    assert "lightgbm serves it" in shaped.remark


@pytest.mark.parametrize("name", ["lightgbm", "logistic"])
def test_no_form_serves_when_all_differ(name: str) -> None:
    fitted = bent(trained(name), 7, 0.3)
    with pytest.raises(FailedPrecondition, match=r"differ by up to 0\.3") as caught:
        SHAPING.shape(fitted, *rows(), ConversionSpec())
    assert caught.value.reason == "CONVERSION_DIFFERS"


def test_as_many_rows_may_differ_as_is_allowed() -> None:
    fitted = bent(trained("logistic"), 7, 0.3)
    allowed = ConversionSpec(max_share_beyond=1 / 2000)
    assert SHAPING.shape(fitted, *rows(), allowed).made[0].parity.passed


def test_what_can_not_be_converted_serves_in_its_own_format_and_says_so() -> None:
    trainer = make_trainer("hist_gradient_boosting", {"max_iter": 20})
    fitted = trainer.fit(*rows(), [f"x{at}" for at in range(5)], 7, 1)
    shaped = SHAPING.shape(fitted, *rows(), QUANTIZED)
    assert shaped.fitted == fitted
    assert "HistGradientBoostingClassifier" in shaped.remark
    assert "skops serves it" in shaped.remark
    assert [each.parity.passed for each in shaped.made] == [False, False]
    assert "only ONNX files are quantized" in shaped.made[1].parity.reason


def test_a_quantized_network_serves_and_keeps_its_source() -> None:
    allowed = replace(QUANTIZED, quantize_tolerance=0.2, quantize_max_share_beyond=0.05)
    shaped = SHAPING.shape(neural(), *rows(), allowed)
    full, (made, small) = neural().model, shaped.made
    assert shaped.fitted.model == small.target
    assert shaped.fitted.files["model.full.onnx"] == ("onnx", full)
    assert (small.source, made.target) == (full, full)
    assert small.parity.passed
    assert (small.parity.source_bytes, small.parity.target_bytes) == (len(full), len(small.target))
    assert small.parity.target_bytes < small.parity.source_bytes / 2
    assert abs(small.parity.metric_changes["roc_auc"]) < 0.02
    again = load_model("onnx", shaped.fitted.model, 5)(rows()[0])
    worst = float(np.abs(again - neural().predictions).max())
    assert small.parity.max_abs_diff == pytest.approx(worst)


def test_a_quantized_network_that_differs_too_much_is_refused() -> None:
    strict = replace(QUANTIZED, quantize_tolerance=1e-6, quantize_max_share_beyond=0.0)
    shaped = SHAPING.shape(neural(), *rows(), strict)
    assert shaped.fitted == neural()
    refused = shaped.made[1]
    assert (refused.parity.passed, refused.target) == (False, b"")
    assert refused.parity.max_abs_diff > 1e-6
    assert "no int8_dynamic" in shaped.remark


def test_a_tree_ensemble_is_not_quantized_and_the_report_says_why() -> None:
    shaped = SHAPING.shape(trained("lightgbm"), *rows(), QUANTIZED)
    assert shaped.fitted == trained("lightgbm")
    assert "a tree ensemble has no weights" in shaped.made[1].parity.reason
