"""INT8 quantization by the real tool."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.impute import SimpleImputer
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from service_kit.errors import FailedPrecondition
from tests.training_svc.test_trainers import data, fit
from training_svc.conversion import estimator_to_onnx
from training_svc.quantization import NothingToQuantizeError, quantize
from training_svc.scoring import load_model


def network() -> bytes:
    inputs, labels = data(3000)
    model = make_pipeline(
        SimpleImputer(),
        StandardScaler(),
        MLPClassifier((128, 64), max_iter=15, tol=1e-2, random_state=1),
    )
    return estimator_to_onnx(model.fit(inputs, labels.astype(int)), inputs.shape[1])


def test_a_network_gets_smaller_and_answers_nearly_the_same() -> None:
    full = network()
    small = quantize(full)
    assert len(small) < 0.5 * len(full)
    inputs, _ = data(2000, seed=1)
    before, after = (load_model("onnx", each, 5)(inputs) for each in (full, small))
    assert 0 < np.abs(before - after).mean() < 0.02
    assert quantize(full) == small


def test_a_tree_ensemble_has_nothing_to_quantize() -> None:
    inputs, labels = data(2000)
    with pytest.raises(NothingToQuantizeError, match="tree ensemble has no weights"):
        quantize(fit("lightgbm", inputs, labels).model)


def test_a_linear_classifier_has_nothing_to_quantize() -> None:
    inputs, labels = data(2000)
    with pytest.raises(NothingToQuantizeError, match="operators have no weights"):
        quantize(fit("logistic", inputs, labels).model)


def test_what_would_be_no_smaller_is_refused() -> None:
    inputs, labels = data(500)
    tiny = make_pipeline(SimpleImputer(), MLPClassifier((2,), max_iter=2, tol=1.0))
    with pytest.raises(NothingToQuantizeError, match="no smaller"):
        quantize(estimator_to_onnx(tiny.fit(inputs, labels.astype(int)), inputs.shape[1]))


def test_what_is_no_onnx_model_is_refused() -> None:
    with pytest.raises(FailedPrecondition, match="MODEL_UNUSABLE"):
        quantize(b"nonsense")
