"""The built-in trainers: what they export scores as what they trained."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import lightgbm
import numpy as np
import pytest
from numpy.typing import NDArray

from training_svc.conversion import in_float32
from training_svc.domain.metrics import roc_auc
from training_svc.plugins import make_trainer
from training_svc.scoring import load_model
from training_svc.trainers import PARITY_ROWS, Fitted

Inputs = NDArray[np.float32]
Labels = NDArray[np.float64]
CONFIGS: dict[str, dict[str, Any]] = {
    "lightgbm": {"num_iterations": 60},
    "logistic": {},
    "xgboost": {"num_boost_round": 60, "max_depth": 4},
}


def data(rows: int = 12_000, *, missing: float = 0.1, seed: int = 0) -> tuple[Inputs, Labels]:
    """Inputs of several kinds, some missing, with labels that depend on them."""
    generator = np.random.default_rng(seed)
    inputs = np.empty((rows, 5), np.float32)
    inputs[:, 0] = generator.normal(size=rows)
    inputs[:, 1] = generator.integers(0, 24, rows)
    inputs[:, 2] = generator.exponential(1e4, rows)
    inputs[:, 3] = generator.choice([0.1, 0.2, 0.3], rows)
    inputs[:, 4] = generator.integers(-1, 6, rows)
    drive = inputs[:, 0] + 0.2 * (inputs[:, 1] > 17) + inputs[:, 3] * inputs[:, 4]
    labels = (drive + generator.normal(0, 0.7, rows) > 0.8).astype(float)
    inputs[generator.random(inputs.shape) < missing] = np.nan
    return inputs, labels


def fit(name: str, inputs: Inputs, labels: Labels, **config: Any) -> Fitted:
    names = [f"x{at}" for at in range(inputs.shape[1])]
    return make_trainer(name, {**CONFIGS[name], **config}).fit(inputs, labels, names, 7, 1)


def served(fitted: Fitted, inputs: Inputs) -> NDArray[np.float64]:
    return load_model(fitted.runtime, fitted.model, inputs.shape[1])(inputs)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_the_exported_model_scores_as_the_trained_one(name: str, missing: float) -> None:
    inputs, labels = data(missing=missing)
    fitted = fit(name, inputs, labels)
    assert len(fitted.predictions) == PARITY_ROWS
    scores = served(fitted, inputs)
    assert np.abs(scores[:PARITY_ROWS] - fitted.predictions).max() < 1e-5
    assert roc_auc(labels, scores) > 0.8


def test_rows_with_everything_missing_are_scored_alike_when_training_had_none_missing() -> None:
    inputs, labels = data(missing=0.0)
    fitted = fit("lightgbm", inputs, labels)
    holes, _ = data(8_000, missing=0.5, seed=1)
    holes[:10] = np.nan
    native = lightgbm.Booster(model_str=fitted.files["model.txt"][1].decode())
    assert np.abs(served(fitted, holes) - native.predict(holes)).max() < 1e-5


def test_neighbouring_floats_go_the_same_way() -> None:
    generator = np.random.default_rng(0)
    floats = [np.float32(0.1)]
    while len(floats) < 12:
        floats.append(np.nextafter(floats[-1], np.float32(1)))
    picks = generator.integers(0, 12, (6000, 3))
    inputs = np.array(floats, np.float32)[picks]
    labels = ((picks % 2).sum(axis=1) > 1).astype(float)
    fitted = fit("lightgbm", inputs, labels, min_data_in_leaf=5)
    assert len(np.unique(fitted.predictions)) > 4
    assert np.abs(served(fitted, inputs) - fitted.predictions).max() < 1e-5


def test_thresholds_are_rounded_down_and_nothing_else_is_changed() -> None:
    inputs, labels = data(3000)
    parameters = {"objective": "binary", "verbosity": -1, "num_threads": 1}
    booster = lightgbm.train(parameters, lightgbm.Dataset(inputs, labels), 20)
    rounded = lightgbm.Booster(model_str=in_float32(booster.model_to_string()))
    assert np.array_equal(rounded.predict(inputs), booster.predict(inputs))
    before, after = booster.trees_to_dataframe(), rounded.trees_to_dataframe()
    exact = before["threshold"].dropna().to_numpy()
    thresholds = after["threshold"].dropna().to_numpy()[exact < 1e300]
    assert (thresholds == thresholds.astype(np.float32)).all()
    assert (thresholds <= exact[exact < 1e300]).all()
    assert after["value"].equals(before["value"])


DIGESTS = """
import hashlib
from tests.training_svc.test_trainers import CONFIGS, data, fit
for name in CONFIGS:
    print(hashlib.sha256(fit(name, *data(2000)).model).hexdigest())
"""


def test_the_same_seed_gives_the_same_file_in_every_process() -> None:
    # Two hash seeds, as the order of sets is another one in each process.
    found = [
        subprocess.run(
            [sys.executable, "-c", DIGESTS],
            env=os.environ | {"PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout.split()
        for seed in ("1", "2")
    ]
    assert found[0] == found[1]
    assert len(set(found[0])) == len(CONFIGS)


def test_importance_names_what_matters() -> None:
    inputs, labels = data()
    for name in CONFIGS:
        importance = fit(name, inputs, labels).importance
        assert len(importance) == 5
        assert int(np.argmax(importance)) == 0


def test_an_input_that_is_always_missing_does_no_harm() -> None:
    inputs, labels = data(2000)
    inputs[:, 2] = np.nan
    for name in CONFIGS:
        fitted = fit(name, inputs, labels)
        assert np.abs(served(fitted, inputs) - fitted.predictions).max() < 1e-5


def test_what_can_not_be_converted_is_exported_in_its_own_format() -> None:
    inputs, labels = data(4000)
    fitted = make_trainer("hist_gradient_boosting", {"max_iter": 40}).fit(
        inputs, labels, [f"x{at}" for at in range(5)], 7, 1
    )
    assert (fitted.runtime, fitted.model_format) == ("skops", "skops")
    assert "skl2onnx can't convert a HistGradientBoostingClassifier" in fitted.unconverted
    assert np.abs(served(fitted, inputs) - fitted.predictions).max() < 1e-6
    assert int(np.argmax(fitted.importance)) == 0


def test_the_drill_learns_nothing() -> None:
    inputs, labels = data(4000)
    broken = fit("lightgbm", inputs, labels, shuffle_inputs=True)
    held, truth = data(4000, seed=1)
    assert abs(roc_auc(truth, served(broken, held)) - 0.5) < 0.1
