"""Plots of an evaluation."""

from __future__ import annotations

import numpy as np
import pytest

from training_svc.plots import evaluation_plots

SIGNATURE = b"\x89PNG\r\n\x1a\n"


@pytest.mark.parametrize("champion", [False, True])
@pytest.mark.parametrize("importance", [[], [0.0, 0.0], [1.0, 3.0]])
def test_every_evaluation_can_be_drawn(champion: bool, importance: list[float]) -> None:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, 300).astype(float)
    scores = generator.random(300)
    found = evaluation_plots(labels, scores, scores if champion else None, ["a", "b"], importance)
    assert ("feature_importance.png" in found) is bool(importance)
    assert all(each.startswith(SIGNATURE) and len(each) > 5000 for each in found.values())


@pytest.mark.parametrize("labels", [np.zeros(5), np.ones(5)])
def test_one_class_can_be_drawn(labels: np.ndarray) -> None:
    assert len(evaluation_plots(labels, np.full(5, 1.0), np.full(5, 0.0), ["a"], [1.0])) == 3
