"""Forests in ONNX files: which are read, and why others are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving_svc.runtimes.trees.forest import ForestError
from serving_svc.runtimes.trees.onnx_graph import read_forest
from serving_svc.runtimes.trees.walk import walker
from tests.serving_svc.runtimes import forests
from tests.serving_svc.runtimes.forests import ANSWER, INPUT, Fork, Leaf

TREE = Fork(0, 0.5, Leaf({0: 1.0}), Fork(1, 2.0, Leaf({0: 2.0}), Leaf({0: 3.0})))
ROWS = np.array([[0, 0], [1, 1], [1, 3]], np.float32)


def scores(folder: Path, content: bytes, outputs: int = 1) -> list[list[float]]:
    path = forests.written(folder, content)
    forest = read_forest(path, (INPUT, ANSWER), 2)
    found: list[list[float]] = walker(forest, outputs)(ROWS).tolist()
    return found


def test_trees_are_summed_and_bases_added(tmp_path: Path) -> None:
    content = forests.regressor([TREE, TREE], 2, base_values=[0.5])
    assert scores(tmp_path, content) == [[2.5], [4.5], [6.5]]


def test_an_average_is_one(tmp_path: Path) -> None:
    content = forests.regressor([TREE, TREE], 2, aggregate_function="AVERAGE", base_values=[0.5])
    assert scores(tmp_path, content) == [[1.5], [2.5], [3.5]]


def test_one_score_for_two_classes_is_that_of_the_second(tmp_path: Path) -> None:
    tree = Fork(0, 0.5, Leaf({1: -1.0}), Leaf({1: 1.0}))
    content = forests.classifier([tree], 2, 2, post_transform="LOGISTIC")
    upper = 1 / (1 + np.exp(-1))
    found = np.array(scores(tmp_path, content, outputs=2))
    np.testing.assert_allclose(found[:, 1], [1 - upper, upper, upper], atol=1e-7)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-7)
    assert np.allclose(scores(tmp_path, content), found[:, 1:])


def test_softmax_is_over_the_classes_of_a_row(tmp_path: Path) -> None:
    tree = Fork(0, 0.5, Leaf({0: 80.0, 2: 81.0}), Leaf({1: 1.0}))
    content = forests.classifier([tree], 2, 3, post_transform="SOFTMAX")
    sums = np.array([[80, 0, 81], [0, 1, 0], [0, 1, 0]], float)
    expected = np.exp(sums) / np.exp(sums).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(scores(tmp_path, content, outputs=3), expected, rtol=1e-5)


def test_operators_that_change_nothing_are_passed_over(tmp_path: Path) -> None:
    from onnx import helper

    behind = (
        helper.make_node("Identity", ["sums"], ["same"]),
        helper.make_node("Mul", ["same", "one"], [ANSWER]),
    )
    given = forests.attributes([TREE]) | {"n_targets": 1}
    content = forests.model("TreeEnsembleRegressor", ["sums"], 2, given, *behind)
    assert scores(tmp_path, content) == [[1.0], [2.0], [3.0]]


def changed(**more: Any) -> bytes:
    return forests.regressor([TREE], 2, **more)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (changed(aggregate_function="MAX"), "aggregate_function is MAX"),
        (changed(post_transform="PROBIT"), "post_transform is PROBIT"),
        (changed(base_values=[1.0, 2.0]), "base values"),
        (changed(nodes_modes=["BRANCH_EQ", "LEAF", "BRANCH_LEQ", "LEAF", "LEAF"]), "BRANCH_EQ"),
        (changed(nodes_featureids=[2, 0, 1, 0, 0]), "an input that there is not"),
        (changed(nodes_featureids=[-1, 0, 1, 0, 0]), "an input that there is not"),
        (changed(nodes_values=[float("nan"), 0.0, 2.0, 0.0, 0.0]), "no number"),
        (changed(nodes_values=[0.5]), "different lengths"),
        (changed(nodes_truenodeids=[9, 0, 3, 0, 0]), "not there"),
        (changed(nodes_truenodeids=[0, 0, 3, 0, 0]), "make no trees"),
        (changed(nodes_truenodeids=[2, 0, 3, 0, 0]), "make no trees"),
        (changed(nodes_nodeids=[0, 1, 2, 3, 3]), "twice"),
        (changed(nodes_nodeids=[0, 1, 2, 3, -1]), "twice"),
        (changed(target_ids=[0, 0, 1]), "an output that there is not"),
        (changed(target_nodeids=[0, 3, 4]), "a fork has a value"),
        (changed(target_treeids=[0, 0, 7]), "not there"),
        (changed(nodes_treeids=[]), "no nodes"),
    ],
)
def test_a_file_that_is_no_such_forest_is_refused(content: bytes, why: str, tmp_path: Path) -> None:
    with pytest.raises(ForestError, match=why):
        scores(tmp_path, content)


def test_what_is_made_of_the_sums_elsewhere_is_refused(tmp_path: Path) -> None:
    from onnx import helper

    given = forests.attributes([TREE]) | {"n_targets": 1}
    for behind in (
        helper.make_node("Exp", ["sums"], [ANSWER]),
        helper.make_node("Mul", ["sums", "sums"], [ANSWER]),
    ):
        content = forests.model("TreeEnsembleRegressor", ["sums"], 2, given, behind)
        with pytest.raises(ForestError, match=f"operator {behind.op_type}"):
            scores(tmp_path, content)


def test_trees_of_what_was_computed_before_are_refused(tmp_path: Path) -> None:
    path = forests.written(tmp_path, changed())
    with pytest.raises(ForestError, match="something else than the input"):
        read_forest(path, ("other", ANSWER), 2)
    with pytest.raises(ForestError, match="the answer is the input"):
        read_forest(path, (INPUT, INPUT), 2)


def test_outputs_that_lie_far_apart_are_refused(tmp_path: Path) -> None:
    """A small file would take much memory."""
    tree = Fork(0, 0.5, Leaf({0: 1.0}), Leaf({5_000: 2.0}))
    path = forests.written(tmp_path, forests.regressor([tree], 2, 5_001))
    with pytest.raises(ForestError, match="far apart"):
        read_forest(path, (INPUT, ANSWER), 2)


def test_too_wide_inputs_are_refused(tmp_path: Path) -> None:
    path = forests.written(tmp_path, forests.regressor([TREE], 3_000))
    with pytest.raises(ForestError, match="too large"):
        read_forest(path, (INPUT, ANSWER), 3_000)
