"""Native boosters score as their own library does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pytest
import xgboost

from serving_svc.runtimes import ModelUnusableError, make_runtime, warmed
from tests.serving_svc.runtimes.examples import WIDTH, labels, rows


def xgb(objective: str, classes: int = 2) -> xgboost.Booster:
    table = rows()
    more: dict[str, Any] = {"num_class": classes} if classes > 2 else {}
    data = xgboost.DMatrix(table, labels(table, classes))
    return xgboost.train({"objective": objective, "max_depth": 3, "nthread": 1, **more}, data, 12)


@pytest.mark.parametrize("encoding", ["json", "ubj"])
@pytest.mark.parametrize(
    ("objective", "classes", "outputs"),
    [("binary:logistic", 2, 1), ("reg:squarederror", 2, 1), ("multi:softprob", 3, 3)],
)
def test_xgboost(tmp_path: Path, encoding: str, objective: str, classes: int, outputs: int) -> None:
    booster = xgb(objective, classes)
    path = tmp_path / "no-ending"
    path.write_bytes(bytes(booster.save_raw(encoding)))
    scorer = warmed(make_runtime("xgboost").load(path, WIDTH, outputs), WIDTH, outputs)
    expected = booster.predict(xgboost.DMatrix(rows())).reshape(len(rows()), -1)
    assert np.array_equal(scorer(rows()), expected)
    assert np.array_equal(scorer(rows()[:1]), expected[:1])


@pytest.mark.parametrize(
    ("objective", "classes", "outputs"), [("binary", 2, 1), ("multiclass", 3, 3)]
)
def test_lightgbm(tmp_path: Path, objective: str, classes: int, outputs: int) -> None:
    table = rows()
    settings: dict[str, Any] = {"objective": objective, "verbosity": -1, "num_threads": 1}
    if classes > 2:
        settings["num_class"] = classes
    booster = lightgbm.train(settings, lightgbm.Dataset(table, labels(table, classes)), 10)
    path = tmp_path / "model"
    path.write_text(booster.model_to_string())
    scorer = warmed(make_runtime("lightgbm").load(path, WIDTH, outputs), WIDTH, outputs)
    expected = np.asarray(booster.predict(table)).reshape(len(table), -1)
    assert np.allclose(scorer(table), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("runtime", ["lightgbm", "xgboost"])
@pytest.mark.parametrize("content", [b"", b"nonsense", b'{"learner": {}}', b"tree\nversion=v4\n"])
def test_what_is_no_booster_is_refused(tmp_path: Path, runtime: str, content: bytes) -> None:
    path = tmp_path / "model"
    path.write_bytes(content)
    with pytest.raises(ModelUnusableError):
        warmed(make_runtime(runtime).load(path, WIDTH, 1), WIDTH, 1)


def test_another_width_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.write_bytes(bytes(xgb("binary:logistic").save_raw("ubj")))
    with pytest.raises(ModelUnusableError, match=f"{WIDTH} inputs, its signature {WIDTH + 1}"):
        make_runtime("xgboost").load(path, WIDTH + 1, 1)
