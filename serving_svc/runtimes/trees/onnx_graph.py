"""Forests in ONNX files: the operators `TreeEnsembleClassifier` and `TreeEnsembleRegressor` of
`ai.onnx.ml`, versions 1 and 3, where they are all that makes a model's answer."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from serving_svc.runtimes.trees.forest import Forest, ForestError, Leaves, Nodes, build

_DOMAIN = "ai.onnx.ml"
_KINDS = {"TreeEnsembleClassifier": "class", "TreeEnsembleRegressor": "target"}
_AFTER = {"NONE": "none", "LOGISTIC": "logistic", "SOFTMAX": "softmax"}
_AVERAGE = {"SUM": False, "AVERAGE": True}
_LEAF, _AT_MOST, _LESS = "LEAF", "BRANCH_LEQ", "BRANCH_LT"


def read_forest(path: Path, names: tuple[str, str], inputs: int) -> Forest:
    """The forest that makes one of a model's answers, and nothing else with it.

    Args:
        names: Those of the model's input and of the answer.
        inputs: Columns of the model's input.

    Raises:
        ForestError: When there is something else in the model, or in its trees.
    """
    from onnx import ModelProto

    graph = ModelProto.FromString(path.read_bytes()).graph
    node = _maker(graph, names[1])
    if node.domain != _DOMAIN or node.op_type not in _KINDS:
        raise ForestError(f"the answer comes from an operator {node.op_type}")
    if list(node.input) != [names[0]]:
        raise ForestError("the trees look at something else than the input")
    return _forest(_Attributes(node), _KINDS[node.op_type], inputs)


def _maker(graph: Any, answer: str) -> Any:
    """The operator that makes an answer, behind those that change nothing."""
    makers = {name: node for node in graph.node for name in node.output}
    ones = {each.name for each in graph.initializer if _is_one(each)}
    name = answer
    for _ in range(len(graph.node)):
        node = makers.get(name)
        if node is None:
            break
        if node.op_type == "Identity":
            name = node.input[0]
        elif node.op_type == "Mul" and len(ones.intersection(node.input)) == 1:
            (name,) = (each for each in node.input if each not in ones)
        else:
            return node
    raise ForestError("the answer is the input")


def _is_one(tensor: Any) -> bool:
    from onnx.numpy_helper import to_array

    if prod(tensor.dims) != 1:
        return False
    values = to_array(tensor)
    return bool((values == 1).all())


class _Attributes:
    """The attributes of an operator, with what stands for those that are absent."""

    def __init__(self, node: Any) -> None:
        self._found = {each.name: each for each in node.attribute}

    def integers(self, name: str) -> npt.NDArray[np.int64]:
        found = self._found.get(name)
        return np.array(found.ints if found is not None else (), np.int64)

    def floats(self, name: str) -> npt.NDArray[np.float32]:
        # Numbers in double precision are for trees of doubles, which are none of ours.
        if f"{name}_as_tensor" in self._found:
            raise ForestError("the trees compare numbers in double precision")
        found = self._found.get(name)
        return np.array(found.floats if found is not None else (), np.float32)

    def texts(self, name: str) -> npt.NDArray[np.str_]:
        found = self._found.get(name)
        return np.array([each.decode() for each in found.strings] if found is not None else [])

    def integer(self, name: str, otherwise: int) -> int:
        found = self._found.get(name)
        return int(found.i) if found is not None else otherwise

    def choice(self, name: str, otherwise: str, known: dict[str, Any]) -> Any:
        found = self._found.get(name)
        text = found.s.decode() if found is not None else otherwise
        if text not in known:
            raise ForestError(f"{name} is {text}")
        return known[text]


def _forest(given: _Attributes, kind: str, inputs: int) -> Forest:
    trees, ids = given.integers("nodes_treeids"), given.integers("nodes_nodeids")
    if not len(trees) or len(trees) != len(ids):
        raise ForestError("there are no nodes")
    order = np.lexsort((ids, trees))
    _, tree = np.unique(trees[order], return_inverse=True)
    places = _Places(tree, ids[order], np.unique(trees))
    nodes = _nodes(given, order, places)
    leaves = Leaves(
        places.find(given.integers(f"{kind}_treeids"), given.integers(f"{kind}_nodeids")),
        given.integers(f"{kind}_ids"),
        given.floats(f"{kind}_weights"),
    )
    base = given.floats("base_values")
    if kind == "class":
        numbers, names = given.integers("classlabels_int64s"), given.texts("classlabels_strings")
        count = max(len(numbers), len(names))
        leaves, count = _one_of_two(leaves, count)
    else:
        count = given.integer("n_targets", 1)
    if len(base) not in (0, count):
        raise ForestError("the base values are of another number")
    return build(
        inputs,
        nodes,
        leaves,
        base=base if len(base) else np.zeros(count, np.float32),
        after=given.choice("post_transform", "NONE", _AFTER),
        average=given.choice("aggregate_function", "SUM", _AVERAGE),
    )


def _one_of_two(leaves: Leaves, classes: int) -> tuple[Leaves, int]:
    """Of two classes, of which leaves speak of one only, the score of the second is the sum."""
    if classes == 2 and len(np.unique(leaves.output)) == 1:
        return leaves._replace(output=np.zeros_like(leaves.output)), 1
    return leaves, classes


class _Places:
    """Where nodes are by the ids of their trees and their own."""

    def __init__(
        self,
        tree: npt.NDArray[np.int64],
        ids: npt.NDArray[np.int64],
        trees: npt.NDArray[np.int64],
    ) -> None:
        self.tree = tree
        self._trees = trees
        self._width = int(ids.max(initial=0)) + 1
        self._codes = tree * self._width + ids
        if ids.min(initial=0) < 0 or (np.diff(self._codes) <= 0).any():
            raise ForestError("a node is there twice")

    def find(
        self, trees: npt.NDArray[np.int64], ids: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.int64]:
        """Places of nodes by tree and id; raises ForestError for one that is not there."""
        if len(trees) != len(ids):
            raise ForestError("attributes are of different lengths")
        tree = self._trees.searchsorted(trees).clip(max=len(self._trees) - 1)
        wanted = tree * self._width + ids
        found = self._codes.searchsorted(wanted).clip(max=len(self._codes) - 1)
        if (self._trees[tree] != trees).any() or (self._codes[found] != wanted).any():
            raise ForestError("a node is not there")
        return found


def _nodes(given: _Attributes, order: npt.NDArray[np.int64], places: _Places) -> Nodes:
    modes = given.texts("nodes_modes")
    feature, threshold = given.integers("nodes_featureids"), given.floats("nodes_values")
    children = given.integers("nodes_truenodeids"), given.integers("nodes_falsenodeids")
    tracks = given.integers("nodes_missing_value_tracks_true")
    if not len(tracks):
        tracks = np.zeros(len(order), np.int64)
    if any(len(each) != len(order) for each in (modes, feature, threshold, *children, tracks)):
        raise ForestError("attributes are of different lengths")
    modes = modes[order]
    if not np.isin(modes, (_LEAF, _AT_MOST, _LESS)).all():
        raise ForestError(f"forks of the kinds {', '.join(sorted(set(modes.tolist())))}")
    fork = modes != _LEAF
    trees = given.integers("nodes_treeids")[order]
    left, right = np.full(len(order), -1), np.full(len(order), -1)
    left[fork], right[fork] = (places.find(trees[fork], ids[order][fork]) for ids in children)
    return Nodes(
        places.tree,
        feature[order],
        threshold[order],
        modes == _LESS,
        tracks[order] > 0,
        left,
        right,
    )
