"""Compiled forests: what they answer, compared with the libraries that grew them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving_svc.runtimes import Scorer, make_runtime, trees
from serving_svc.runtimes.trees import agreement, onnx_graph, walk
from serving_svc.runtimes.trees.agreement import agree, hard_rows
from serving_svc.runtimes.trees.forest import ForestError, keys_of
from serving_svc.runtimes.trees.onnx_graph import read_forest
from serving_svc.runtimes.trees.walk import LANES, walker
from tests.serving_svc.models import onnx_linear
from tests.serving_svc.runtimes import forests
from tests.serving_svc.runtimes.forests import ANSWER, INPUT, Fork, Leaf, Matrix
from training_svc.conversion import estimator_to_onnx, lightgbm_to_onnx, xgboost_to_onnx

WIDTH = 6
NAMES = INPUT, ANSWER
Grown = tuple[bytes, Callable[[Matrix], Any], int]
"""A model as ONNX, its own answers, and how many columns they have."""


def data(*, missing: bool = False) -> tuple[Matrix, Any]:
    rng = np.random.default_rng(11)
    rows = rng.normal(size=(600, WIDTH)).astype(np.float32)
    target = rows[:, 0] + rows[:, 1] * rows[:, 2] + rng.normal(size=len(rows)) / 4
    if missing:
        rows[rng.random(rows.shape) < 0.2] = np.nan
    return rows, target


def lightgbm(objective: str, classes: int = 1, *, missing: bool = False) -> Grown:
    import lightgbm

    rows, target = data(missing=missing)
    labels = labelled(target, objective, classes)
    params = {"objective": objective, "verbose": -1, "num_threads": 1, "num_leaves": 15}
    if classes > 1:
        params["num_class"] = classes
    booster = lightgbm.train(params, lightgbm.Dataset(rows, labels), num_boost_round=12)
    return lightgbm_to_onnx(booster, WIDTH), booster.predict, classes


def xgboost(objective: str, classes: int = 1, *, missing: bool = False) -> Grown:
    import xgboost

    rows, target = data(missing=missing)
    labels = labelled(target, objective, classes)
    params: dict[str, Any] = {"objective": objective, "nthread": 1}
    if classes > 1:
        params["num_class"] = classes
    booster = xgboost.train(params, xgboost.DMatrix(rows, labels), num_boost_round=12)
    return xgboost_to_onnx(booster, WIDTH), booster.inplace_predict, classes


def sklearn(name: str, classes: int = 1) -> Grown:
    from sklearn import ensemble, tree

    made = getattr(tree if name.startswith("Decision") else ensemble, name)
    sizes = {} if name.startswith("Decision") else {"n_estimators": 8}
    rows, target = data()
    objective = "reg" if name.endswith("Regressor") else "class"
    estimator = made(max_depth=8, random_state=3, **sizes)
    estimator.fit(rows, labelled(target, objective, max(classes, 2)))
    own = estimator.predict if objective == "reg" else estimator.predict_proba
    return estimator_to_onnx(estimator, WIDTH), own, classes


def labelled(target: Any, objective: str, classes: int) -> Any:
    if objective.startswith("reg"):
        return target
    return np.digitize(target, np.linspace(-1, 1, max(classes - 1, 1)) if classes > 2 else [0])


GROWN = {
    "lightgbm, two classes": lambda: lightgbm("binary"),
    "lightgbm, missing values": lambda: lightgbm("binary", missing=True),
    "lightgbm, three classes": lambda: lightgbm("multiclass", 3),
    "lightgbm, numbers": lambda: lightgbm("regression"),
    "xgboost, two classes": lambda: xgboost("binary:logistic"),
    "xgboost, missing values": lambda: xgboost("binary:logistic", missing=True),
    "xgboost, three classes": lambda: xgboost("multi:softprob", 3),
    "xgboost, numbers": lambda: xgboost("reg:squarederror"),
    "a random forest": lambda: sklearn("RandomForestClassifier"),
    "a random forest, three classes": lambda: sklearn("RandomForestClassifier", 3),
    "a random forest, numbers": lambda: sklearn("RandomForestRegressor"),
    "extra trees, both classes": lambda: sklearn("ExtraTreesClassifier", 2),
    "gradient boosting": lambda: sklearn("GradientBoostingClassifier"),
    "gradient boosting, three classes": lambda: sklearn("GradientBoostingClassifier", 3),
    "gradient boosting, numbers": lambda: sklearn("GradientBoostingRegressor"),
    "one tree": lambda: sklearn("DecisionTreeClassifier"),
}


@pytest.fixture(autouse=True)
def all_worthwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trees, "WORTHWHILE", 1)


def loaded(path: Path, outputs: int, **config: Any) -> Scorer:
    return make_runtime("onnx", config).load(path, WIDTH, outputs)


@pytest.mark.parametrize("name", GROWN)
def test_a_compiled_forest_answers_as_the_library_that_grew_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content, own, outputs = GROWN[name]()
    path = forests.written(tmp_path, content)
    general = loaded(path, outputs, trees="onnxruntime")
    compared: list[bool] = []

    def noted(*given: Any) -> bool:
        compared.append(agree(*given))
        return compared[-1]

    monkeypatch.setattr(agreement, "agree", noted)
    score = loaded(path, outputs)
    assert compared == [True]
    rows, _ = data(missing="missing" in name)
    for count in (1, 2, 3, LANES - 1, LANES, LANES + 1, 2 * LANES + 3, len(rows)):
        some = rows[:count]
        found = score(some)
        assert (found.shape, found.dtype) == ((count, outputs), np.float32)
        np.testing.assert_allclose(found, general(some), rtol=1e-6, atol=1e-7)
        expected = np.asarray(own(some)).reshape(count, -1)[:, -outputs:]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


FLOATS = st.one_of(
    st.sampled_from([0.0, -0.0, 1.0, -1.0, 1e-45, -1e-45, 3.4e38, float("inf"), float("-inf")]),
    st.floats(-4, 4, width=32),
)
OUTPUTS = 2


def tree_of(mode: str) -> st.SearchStrategy[Fork | Leaf]:
    values = st.floats(-8, 8, width=32)
    leaves = st.dictionaries(st.integers(0, OUTPUTS - 1), values, max_size=OUTPUTS).map(Leaf)

    def forks(below: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        facts = st.just(mode), st.booleans()
        return st.builds(Fork, st.integers(0, 2), FLOATS, below, below, *facts)

    return st.recursive(leaves, forks, max_leaves=12)


@settings(max_examples=60)
@given(
    trees_given=st.sampled_from(["BRANCH_LEQ", "BRANCH_LT"]).flatmap(
        lambda mode: st.lists(tree_of(mode), min_size=1, max_size=4)
    ),
    rows=st.lists(
        st.tuples(*[FLOATS | st.just(float("nan"))] * 3), min_size=1, max_size=2 * LANES + 2
    ),
)
def test_any_forest_answers_as_it_reads(
    tmp_path_factory: pytest.TempPathFactory,
    trees_given: list[Fork | Leaf],
    rows: list[tuple[float, ...]],
) -> None:
    """Thresholds that inputs lie on, both zeros, the smallest numbers, infinity and NaN."""
    path = tmp_path_factory.mktemp("forest") / "forest.onnx"
    path.write_bytes(forests.regressor(trees_given, 3, OUTPUTS))
    matrix = np.array(rows, np.float32)
    found = walker(read_forest(path, NAMES, 3), OUTPUTS)(matrix)
    expected = forests.sums(trees_given, matrix, OUTPUTS)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=2, max_size=20))
def test_keys_are_in_the_order_of_their_floats(values: list[float]) -> None:
    numbers = np.array(values, np.float32)
    keys = keys_of(numbers)
    for at, number in enumerate(numbers):
        assert ((keys < keys[at]) == (numbers < number)).all()
        assert ((keys == keys[at]) == (numbers == number)).all()


def test_a_skewed_tree_is_walked_to_its_end(tmp_path: Path) -> None:
    """Deeper than what is walked without looking, and than what a level's places could hold."""
    depth = 300
    node: Fork | Leaf = Leaf({0: float(depth)})
    for level in reversed(range(depth)):
        node = Fork(0, float(level), Leaf({0: float(level)}), node)
    path = forests.written(tmp_path, forests.regressor([node], 1))
    matrix = np.array([[-1.0], [0.0], [150.5], [299.0], [299.5], [1e9], [7.0], [8.0]], np.float32)
    found = walker(read_forest(path, NAMES, 1), 1)(matrix)
    assert found[:, 0].tolist() == [0.0, 0.0, 151.0, 299.0, 300.0, 300.0, 7.0, 8.0]


def test_inputs_may_lie_in_memory_as_they_like(tmp_path: Path) -> None:
    tree = Fork(0, 0.5, Leaf({0: 1.0}), Fork(1, 2.0, Leaf({0: 2.0}), Leaf({0: 3.0})))
    path = forests.written(tmp_path, forests.regressor([tree], 2))
    score = walker(read_forest(path, NAMES, 2), 1)
    matrix = np.array([[0, 0], [1, 1], [1, 3]], np.float32)
    assert score(np.asfortranarray(matrix))[:, 0].tolist() == [1.0, 2.0, 3.0]
    assert score(np.frombuffer(matrix.tobytes(), "<f4").reshape(3, 2))[:, 0].tolist() == [1, 2, 3]
    assert score(matrix)[:, 0].tolist() == [1.0, 2.0, 3.0]
    assert matrix.flags.writeable


class Loading:
    """Loads a model, and knows whether a forest of it was compiled."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made = 0
        monkeypatch.setattr(walk, "walker", lambda *given: (self.count(), walker(*given))[1])

    def count(self) -> None:
        self.made += 1


@pytest.fixture
def loading(monkeypatch: pytest.MonkeyPatch) -> Loading:
    return Loading(monkeypatch)


@pytest.mark.parametrize("config", [{"trees": "onnxruntime"}, {"threads": 2}])
def test_forests_are_left_to_onnx_runtime(
    config: dict[str, Any], loading: Loading, tmp_path: Path
) -> None:
    content, own, outputs = lightgbm("binary")
    path = forests.written(tmp_path, content)
    rows, _ = data()
    np.testing.assert_allclose(loaded(path, outputs, **config)(rows)[:, 0], own(rows), atol=1e-5)
    assert not loading.made
    loaded(path, outputs)
    assert loading.made


def test_few_trees_are_left_to_onnx_runtime(
    loading: Loading, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content, own, outputs = lightgbm("binary")  # 12 trees
    path = forests.written(tmp_path, content)
    monkeypatch.setattr(trees, "WORTHWHILE", 13)
    rows, _ = data()
    np.testing.assert_allclose(loaded(path, outputs)(rows)[:, 0], own(rows), atol=1e-5)
    assert not loading.made


def test_what_is_no_forest_is_left_to_onnx_runtime(loading: Loading, tmp_path: Path) -> None:
    path = forests.written(tmp_path, onnx_linear(1.0))
    score = make_runtime("onnx", {}).load(path, 3, 1)
    assert (score(np.ones((2, 3), np.float32)) == 3.0).all()
    assert not loading.made


def test_a_forest_that_answers_otherwise_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    content, own, outputs = lightgbm("binary")
    path = forests.written(tmp_path, content)
    tree = Fork(0, 0.5, Leaf({0: 0.0}), Leaf({0: 1.0}))
    other = forests.written(tmp_path / "other", forests.regressor([tree], WIDTH))
    forest = read_forest(other, NAMES, WIDTH)
    monkeypatch.setattr(onnx_graph, "read_forest", lambda *_: forest)
    rows, _ = data()
    np.testing.assert_allclose(loaded(path, outputs)(rows)[:, 0], own(rows), atol=1e-5)
    assert "ONNX Runtime, which stays" in caplog.text


@pytest.mark.parametrize(
    "change",
    [
        lambda tree: Fork(tree.feature, np.nextafter(np.float32(0.5), 1), tree.left, tree.right),
        lambda tree: Fork(tree.feature, 0.5, tree.left, tree.right, "BRANCH_LT"),
        lambda tree: Fork(tree.feature, 0.5, tree.left, Leaf({0: 1.001})),
    ],
)
def test_a_disagreement_is_found(change: Callable[[Fork], Fork], tmp_path: Path) -> None:
    """A threshold that is off by one float, another comparison, another value."""
    tree = Fork(2, 0.5, Leaf({0: 0.0}), Leaf({0: 1.0}))
    scorers = []
    for each in (tree, change(tree)):
        path = forests.written(tmp_path, forests.regressor([each], 3))
        forest = read_forest(path, NAMES, 3)
        scorers.append(walker(forest, 1))
    assert agree(forest, scorers[0], scorers[0])
    assert not agree(forest, *scorers)


def test_hard_rows_lie_on_thresholds_and_beside_them(tmp_path: Path) -> None:
    tree = Fork(1, 0.5, Leaf({0: 0.0}), Leaf({0: 1.0}), missing_left=True)
    path = forests.written(tmp_path, forests.regressor([tree], 3))
    rows = hard_rows(read_forest(path, NAMES, 3))
    half = np.float32(0.5)
    for value in (half, np.nextafter(half, np.float32(1)), np.nextafter(half, np.float32(0))):
        assert (rows[:, 1] == value).sum() > 50
    assert 0 < np.isnan(rows).sum() < rows.size / 10


@pytest.mark.parametrize("broken", ["nbi", "nbc"])
def test_broken_code_that_was_kept_leaves_the_model_to_onnx_runtime(
    broken: str, tmp_path: Path
) -> None:
    content, *_ = lightgbm("binary")
    path = forests.written(tmp_path, content)
    cache = tmp_path / "cache"
    assert scored_apart(path, cache) == "0 compiled"
    for file in cache.rglob(f"*.{broken}"):
        file.write_bytes(b"")
    assert scored_apart(path, cache) == "by ONNX Runtime"


def test_a_walker_that_raises_leaves_the_model_to_onnx_runtime(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content, own, outputs = lightgbm("binary")
    path = forests.written(tmp_path, content)
    monkeypatch.setattr(walk, "walker", lambda *_: 1 / 0)
    rows, _ = data()
    np.testing.assert_allclose(loaded(path, outputs)(rows)[:, 0], own(rows), atol=1e-5)


@pytest.mark.parametrize(
    "matrix", [np.zeros((2, 3), np.float32), np.zeros((2, 2)), np.zeros(2, np.float32)]
)
def test_only_its_own_inputs_are_looked_at(matrix: Any, tmp_path: Path) -> None:
    tree = Fork(0, 0.5, Leaf({0: 1.0}), Leaf({0: 2.0}))
    path = forests.written(tmp_path, forests.regressor([tree], 2))
    score = walker(read_forest(path, NAMES, 2), 1)
    with pytest.raises(ValueError, match="2 inputs of float32"):
        score(matrix)
    assert score(np.zeros((0, 2), np.float32)).shape == (0, 1)


def test_of_two_scores_one_is_the_second(tmp_path: Path) -> None:
    tree = Fork(0, 0.5, Leaf({0: 1.0, 1: 3.0}), Leaf({0: 2.0, 1: 4.0}))
    path = forests.written(tmp_path, forests.regressor([tree], 1, 2))
    forest = read_forest(path, NAMES, 1)
    assert walker(forest, 1)(np.array([[0], [1]], np.float32)).tolist() == [[3.0], [4.0]]
    with pytest.raises(ForestError, match="2 outputs, the signature 3"):
        walker(forest, 3)


def test_code_is_compiled_once_for_a_machine(tmp_path: Path) -> None:
    """What one process has compiled, the next one finds."""
    content, *_ = lightgbm("binary")
    path = forests.written(tmp_path, content)
    told = [scored_apart(path, tmp_path / "cache") for _ in range(2)]
    assert told == ["0 compiled", "1 compiled"]


def scored_apart(path: Path, cache: Path) -> str:
    """How another process scores a model: how much of the walk was found compiled, if it walks."""
    script = (
        "import sys, numpy as np; from pathlib import Path\n"
        "from serving_svc.runtimes import make_runtime, trees; trees.WORTHWHILE = 1\n"
        "score = make_runtime('onnx', {}).load(Path(sys.argv[1]), 6, 1)\n"
        "assert score(np.zeros((3, 6), np.float32)).shape == (3, 1)\n"
        "from serving_svc.runtimes.trees import walk\n"
        "hits = sum(walk._walk.stats.cache_hits.values())\n"
        "print(f'{hits} compiled' if 'walk' in score.__module__ else 'by ONNX Runtime')"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)],
        env=os.environ | {"NUMBA_CACHE_DIR": str(cache)},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return done.stdout.splitlines()[-1]
