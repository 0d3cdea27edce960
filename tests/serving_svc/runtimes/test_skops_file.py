"""scikit-learn estimators in skops' format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
)
from sklearn.impute import SimpleImputer
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from skops import io

from serving_svc.runtimes import ModelUnusableError, make_runtime, warmed
from tests.serving_svc.runtimes.examples import WIDTH, labels, rows


@pytest.mark.parametrize(
    ("estimator", "classes", "outputs"),
    [
        (HistGradientBoostingClassifier(max_iter=8), 2, 1),
        (HistGradientBoostingClassifier(max_iter=8), 3, 3),
        (HistGradientBoostingRegressor(max_iter=8), 2, 1),
        (RandomForestClassifier(5, random_state=1), 2, 1),
        (
            make_pipeline(SimpleImputer(), StandardScaler(), MLPClassifier((8,), max_iter=400)),
            2,
            1,
        ),
    ],
)
def test_it_scores_as_the_estimator(
    tmp_path: Path, estimator: Any, classes: int, outputs: int
) -> None:
    table = rows()
    estimator.fit(table, labels(table, classes))
    io.dump(estimator, tmp_path / "model")
    scorer = warmed(make_runtime("skops").load(tmp_path / "model", WIDTH, outputs), WIDTH, outputs)
    if hasattr(estimator, "predict_proba"):
        expected = estimator.predict_proba(table)[:, -outputs:]
    else:
        expected = estimator.predict(table)[:, None]
    assert np.allclose(scorer(table), expected, atol=1e-6, rtol=0)


def test_types_that_are_not_on_the_list_are_refused_by_name(tmp_path: Path) -> None:
    harmful = FunctionTransformer(func=print)
    io.dump(make_pipeline(harmful), tmp_path / "model")
    with pytest.raises(ModelUnusableError, match=r"not allowed: .*print"):
        make_runtime("skops").load(tmp_path / "model", WIDTH, 1)


def test_what_is_no_estimator_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(b"nonsense")
    io.dump([1, 2], tmp_path / "list")
    for name in ("text", "list"):
        with pytest.raises(ModelUnusableError):
            make_runtime("skops").load(tmp_path / name, WIDTH, 1)
