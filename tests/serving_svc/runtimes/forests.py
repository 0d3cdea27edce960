"""Small forests as ONNX operators, and an independent reading of them, one row at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float32]
INPUT, ANSWER = "inputs", "scores"


@dataclass(frozen=True)
class Fork:
    """A node: values that compare go to `left`."""

    feature: int
    threshold: float
    left: Fork | Leaf
    right: Fork | Leaf
    mode: str = "BRANCH_LEQ"
    missing_left: bool = False


@dataclass(frozen=True)
class Leaf:
    """What a leaf adds, by output."""

    adds: dict[int, float]


@dataclass
class _Rows:
    """The attributes of an operator, a column each."""

    nodes: list[tuple[int, int, int, str, float, int, int, int]] = field(default_factory=list)
    leaves: list[tuple[int, int, int, float]] = field(default_factory=list)

    def add(self, tree: int, node: Fork | Leaf, ids: list[int]) -> int:
        own = ids[0]
        ids[0] += 1
        if isinstance(node, Leaf):
            self.nodes.append((tree, own, 0, "LEAF", 0.0, 0, 0, 0))
            self.leaves += [(tree, own, output, value) for output, value in node.adds.items()]
        else:
            place = len(self.nodes)
            self.nodes.append((tree, own, 0, "", 0.0, 0, 0, 0))
            left, right = self.add(tree, node.left, ids), self.add(tree, node.right, ids)
            facts = node.feature, node.mode, float(node.threshold), left, right
            self.nodes[place] = (tree, own, *facts, int(node.missing_left))
        return own


def attributes(trees: Sequence[Fork | Leaf], kind: str = "target") -> dict[str, Any]:
    """What an operator is told: `TreeEnsembleRegressor` (`target`) or `...Classifier` (`class`)."""
    rows = _Rows()
    for number, tree in enumerate(trees):
        rows.add(number, tree, [0])
    names = ("treeids", "nodeids", "featureids", "modes", "values", "truenodeids", "falsenodeids")
    columns = dict(zip(names, zip(*rows.nodes, strict=True), strict=False))
    given: dict[str, Any] = {f"nodes_{name}": list(values) for name, values in columns.items()}
    given["nodes_missing_value_tracks_true"] = [row[-1] for row in rows.nodes]
    for at, name in enumerate(("treeids", "nodeids", "ids", "weights")):
        given[f"{kind}_{name}"] = [row[at] for row in rows.leaves]
    return given


def regressor(trees: Sequence[Fork | Leaf], inputs: int, targets: int = 1, **more: Any) -> bytes:
    """A model whose answer is the trees' sum."""
    given = attributes(trees) | {"n_targets": targets} | more
    return model("TreeEnsembleRegressor", [ANSWER], inputs, given)


def classifier(trees: Sequence[Fork | Leaf], inputs: int, classes: int, **more: Any) -> bytes:
    """A model whose last answer are the classes' scores."""
    given = attributes(trees, "class") | {"classlabels_int64s": list(range(classes))} | more
    return model("TreeEnsembleClassifier", ["label", ANSWER], inputs, given)


def model(
    kind: str, answers: Sequence[str], inputs: int, given: dict[str, Any], *more: Any
) -> bytes:
    """One operator as a model, with further nodes behind it."""
    from onnx import TensorProto, helper

    said = {name: value for name, value in given.items() if value != []}
    node = helper.make_node(kind, [INPUT], list(answers), domain="ai.onnx.ml", **said)
    last = more[-1].output[0] if more else answers[-1]
    graph = helper.make_graph(
        [node, *more],
        "forest",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, [None, inputs])],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, None)],
        [helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0])],
    )
    opsets = [helper.make_opsetid("", 15), helper.make_opsetid("ai.onnx.ml", 3)]
    made = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    return bytes(made.SerializeToString())


def sums(trees: Sequence[Fork | Leaf], matrix: Matrix, outputs: int) -> npt.NDArray[np.float64]:
    """What the leaves of each row add up to."""
    found = np.zeros((len(matrix), outputs))
    for row, values in enumerate(matrix):
        for tree in trees:
            node = tree
            while isinstance(node, Fork):
                node = node.left if _goes_left(node, values[node.feature]) else node.right
            for output, value in node.adds.items():
                found[row, output] += np.float32(value)
    return found


def _goes_left(fork: Fork, value: np.float32) -> bool:
    if math.isnan(value):
        return fork.missing_left
    threshold = np.float32(fork.threshold)
    return bool(value < threshold if fork.mode == "BRANCH_LT" else value <= threshold)


def written(folder: Path, content: bytes) -> Path:
    """A model as a file."""
    folder.mkdir(exist_ok=True)
    path = folder / "forest.onnx"
    path.write_bytes(content)
    return path
