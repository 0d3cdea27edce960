"""Model files that anybody may have registered."""

from __future__ import annotations

import numpy as np
import pytest

from service_kit.errors import FailedPrecondition
from service_kit.sandbox import Limits, run_apart
from tests.serving_svc import models
from tests.training_svc.test_trainers import data, fit
from training_svc import scoring
from training_svc.scoring import StoredModels, load_model

LIMITS = Limits(seconds=60.0, memory_bytes=4 << 30)


def native(name: str) -> bytes:
    fitted = fit(name, *data(500))
    (file,) = fitted.files.values()
    return file[1]


@pytest.mark.parametrize("name", ["lightgbm", "xgboost"])
def test_a_sound_file_scores_and_is_tried_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []

    def counted(target: str, *rest: object) -> object:
        tried.append(target)
        return run_apart(target, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(scoring, "run_apart", counted)
    model, stored = native(name), StoredModels(LIMITS)
    rows, _ = data(100)
    for _ in range(2):
        scores = stored(name, model, 5)(rows)
        assert np.array_equal(scores, load_model(name, model, 5)(rows))
    assert tried == ["training_svc.scoring:score_blank_rows"]


def test_a_file_that_ends_its_library_s_process_ends_a_child() -> None:
    text = models.booster().model_to_string()
    broken = text.replace("num_leaves=7", "num_leaves=70000", 1).encode()
    with pytest.raises(FailedPrecondition, match="its process ended with SIGABRT") as caught:
        StoredModels(LIMITS)("lightgbm", broken, 3)
    assert caught.value.reason == "MODEL_UNUSABLE"


def test_why_a_file_is_refused_is_said() -> None:
    stored = StoredModels(LIMITS)
    with pytest.raises(FailedPrecondition, match="5 inputs, its signature 4"):
        stored("lightgbm", native("lightgbm"), 4)
    with pytest.raises(FailedPrecondition, match="no XGBoost model"):
        stored("xgboost", b"nonsense", 5)


def test_code_that_a_model_brings_along_is_never_run() -> None:
    with pytest.raises(FailedPrecondition) as caught:
        load_model("mlflow_pyfunc", b"", 5)
    assert caught.value.reason == "MODEL_CODE_NOT_ALLOWED"
