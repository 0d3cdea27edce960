"""A forest as arrays that can be walked without a branch.

Each node is one integer of 64 bits: its threshold in the upper half, then the column that it looks
at, then the place of its left child, counted from the tree's first node; the right child lies
behind the left one. A leaf is its own left child and has a threshold that nothing exceeds, so that
going on from it changes nothing.

Thresholds and inputs are compared as integers of the same order as the floats that they stand for
(the bits of an IEEE 754 float, with those of a negative one turned over).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

COLUMN_BITS, CHILD_BITS = 12, 20
MOST_COLUMNS, MOST_NODES = 1 << COLUMN_BITS, 1 << CHILD_BITS
#: The threshold of leaves: above the keys of all floats, NaN's included.
NO_FORK = np.iinfo(np.int32).max
_SIGN = np.int32(NO_FORK)
#: Share of a tree's leaves that are reached without looking whether one is reached.
_MOST = 0.9
#: Values that are kept for each that is given: leaves keep those of all outputs in between.
_MOST_BLANKS = 16


class ForestError(Exception):
    """Trees that can't be walked here; the text says why."""


class Nodes(NamedTuple):
    """The nodes of all trees, those of a tree together and its root first.

    Attributes:
        tree: Which tree each belongs to: 0, 0, ..., 1, ...
        feature: Input that it looks at.
        threshold: float32.
        strict: Whether a value goes left when it is less than the threshold; otherwise also when
            it is equal.
        missing_left: Whether NaN goes left.
        left: Place of the left child in these arrays; -1 for a leaf.
        right: Place of the right child.
    """

    tree: npt.NDArray[np.int64]
    feature: npt.NDArray[np.int64]
    threshold: npt.NDArray[np.float32]
    strict: npt.NDArray[np.bool_]
    missing_left: npt.NDArray[np.bool_]
    left: npt.NDArray[np.int64]
    right: npt.NDArray[np.int64]


class Leaves(NamedTuple):
    """What leaves add to the outputs, in any order.

    Attributes:
        node: Place of the leaf.
        output: Which output it adds to.
        value: float32.
    """

    node: npt.NDArray[np.int64]
    output: npt.NDArray[np.int64]
    value: npt.NDArray[np.float32]


@dataclass(frozen=True)
class Forest:
    """Trees to walk.

    Attributes:
        inputs: Columns of a matrix to score.
        nodes: As the module says, tree after tree.
        starts: Where each tree's nodes begin, and where the last one's end: trees + 1.
        steps: Forks on the way to all but the deepest leaves of each tree.
        slots: For each node the place of its values; 0 for one that is no leaf.
        values: What leaves add to the outputs `first`, `first` + 1, ..., leaf after leaf.
        first: First output of each tree.
        widths: Number of outputs of each tree.
        scale: What sums are multiplied by: 1, or 1 / trees for an average.
        base: What is added to each output's sum, one an output.
        after: `none`, `logistic` or `softmax`: what is made of the sums.
        doubled: Whether columns `inputs`, `inputs` + 1, ... stand for the inputs once more, with
            NaN below all numbers instead of above.
        thresholds: Features and thresholds of all forks, for those who look for hard rows.
    """

    inputs: int
    nodes: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int64]
    steps: npt.NDArray[np.int64]
    slots: npt.NDArray[np.int64]
    values: npt.NDArray[np.float32]
    first: npt.NDArray[np.int64]
    widths: npt.NDArray[np.int64]
    scale: float
    base: npt.NDArray[np.float32]
    after: str
    doubled: bool
    thresholds: tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]


def keys_of(values: npt.NDArray[np.float32]) -> npt.NDArray[np.int32]:
    """Integers in the order of floats; both zeros are 0.

    >>> keys_of(np.array([-1.5, -0.0, 0.0, 2.0], np.float32)).tolist()
    [-1069547521, 0, 0, 1073741824]
    """
    bits = (values + np.float32(0)).view(np.int32)
    return bits ^ ((bits >> 31) & _SIGN)


def build(
    inputs: int,
    nodes: Nodes,
    leaves: Leaves,
    *,
    base: npt.NDArray[np.float32],
    after: str = "none",
    average: bool = False,
) -> Forest:
    """The forest of some trees.

    Args:
        base: One an output; they say how many outputs there are.
        average: Whether the trees' mean counts instead of their sum.

    Raises:
        ForestError: When they are no trees, or too large.
    """
    leaf = nodes.left < 0
    _check(inputs, nodes, leaf)
    level = _levels(nodes, leaf)
    place = _places(nodes, leaf, level)
    sizes = np.bincount(nodes.tree)
    starts = np.concatenate(([0], sizes.cumsum()))
    doubled = bool((nodes.missing_left & ~leaf).any())
    column = nodes.feature + np.where(nodes.missing_left, inputs, 0)
    key = keys_of(nodes.threshold).astype(np.int64) - nodes.strict
    local = place - starts[nodes.tree]
    child = np.where(leaf, local, local[nodes.left])
    packed = (
        (np.where(leaf, NO_FORK, key) << (COLUMN_BITS + CHILD_BITS))
        | (np.where(leaf, 0, column) << CHILD_BITS)
        | child
    )
    found = _values(nodes, leaves, len(base))
    return Forest(
        inputs=inputs,
        nodes=_at(place, packed),
        starts=starts,
        steps=_steps(nodes, leaf, level),
        slots=_at(place, found.slots),
        values=found.values,
        first=found.first,
        widths=found.widths,
        scale=1 / len(sizes) if average else 1.0,
        base=base,
        after=after,
        doubled=doubled,
        thresholds=(nodes.feature[~leaf], nodes.threshold[~leaf]),
    )


def _check(inputs: int, nodes: Nodes, leaf: npt.NDArray[np.bool_]) -> None:
    if not len(nodes.tree) or (np.diff(nodes.tree, prepend=0) > 1).any() or nodes.tree[0]:
        raise ForestError("there is a tree without nodes")
    if not ((nodes.feature >= 0) & (nodes.feature < inputs))[~leaf].all():
        raise ForestError("a fork looks at an input that there is not")
    if 2 * inputs > MOST_COLUMNS or np.bincount(nodes.tree).max() > MOST_NODES:
        raise ForestError("the trees are too large")
    if np.isnan(nodes.threshold[~leaf]).any():
        raise ForestError("a threshold is no number")
    for child in (nodes.left[~leaf], nodes.right[~leaf]):
        if not ((child >= 0) & (child < len(leaf))).all():
            raise ForestError("a fork leads nowhere")
        if (nodes.tree[child] != nodes.tree[~leaf]).any():
            raise ForestError("a fork leads to another tree")


def _levels(nodes: Nodes, leaf: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Forks above each node."""
    level = np.full(len(leaf), -1)
    here = np.flatnonzero(np.diff(nodes.tree, prepend=-1))  # the roots
    depth = 0
    reached = 0
    while len(here):
        level[here] = depth
        reached += len(here)
        if reached > len(leaf):
            break
        forks = here[~leaf[here]]
        here = np.concatenate((nodes.left[forks], nodes.right[forks]))
        depth += 1
    if reached != len(leaf) or (level < 0).any():
        raise ForestError("the forks make no trees")
    return level


def _steps(
    nodes: Nodes, leaf: npt.NDArray[np.bool_], level: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Of each tree, the level of the leaf that is deeper than `_MOST` of them."""
    order = np.lexsort((level, nodes.tree))
    order = order[leaf[order]]
    counts = np.bincount(nodes.tree[leaf])
    last = counts.cumsum() - counts + np.ceil(counts * _MOST).astype(np.int64) - 1
    steps: npt.NDArray[np.int64] = level[order][last]
    return steps


def _places(
    nodes: Nodes, leaf: npt.NDArray[np.bool_], level: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """New places: tree by tree, level by level, children side by side."""
    forks = np.flatnonzero(~leaf)
    parent = np.full(len(leaf), -1)
    side = np.zeros(len(leaf), np.int64)
    parent[nodes.left[forks]] = parent[nodes.right[forks]] = forks
    side[nodes.right[forks]] = 1
    order = np.lexsort((side, parent, level, nodes.tree))
    place = np.empty(len(leaf), np.int64)
    place[order] = np.arange(len(leaf))
    return place


class _Values(NamedTuple):
    slots: npt.NDArray[np.int64]
    values: npt.NDArray[np.float32]
    first: npt.NDArray[np.int64]
    widths: npt.NDArray[np.int64]


def _values(nodes: Nodes, leaves: Leaves, outputs: int) -> _Values:
    """The leaves' values side by side: of each tree those outputs that its leaves add to."""
    if len(leaves.node) and not ((leaves.output >= 0) & (leaves.output < outputs)).all():
        raise ForestError("a leaf adds to an output that there is not")
    if len(leaves.node) and not ((leaves.node >= 0) & (leaves.node < len(nodes.tree))).all():
        raise ForestError("a value is nobody's")
    if (nodes.left[leaves.node] >= 0).any():
        raise ForestError("a fork has a value")
    trees = int(nodes.tree[-1]) + 1
    tree = nodes.tree[leaves.node]
    first, last = np.full(trees, outputs), np.full(trees, -1)
    np.minimum.at(first, tree, leaves.output)
    np.maximum.at(last, tree, leaves.output)
    widths = np.maximum(last - first + 1, 0)
    first = np.where(widths, first, 0)
    own = np.flatnonzero(nodes.left < 0)
    sizes = widths[nodes.tree[own]]
    if sizes.sum() > _MOST_BLANKS * len(leaves.value):
        raise ForestError("the leaves speak of outputs that lie far apart")
    slots = np.zeros(len(nodes.tree), np.int64)
    slots[own] = sizes.cumsum() - sizes
    values = np.zeros(max(1, int(sizes.sum())), np.float32)
    np.add.at(values, slots[leaves.node] + leaves.output - first[tree], leaves.value)
    return _Values(slots, values, first, widths)


def _at(place: npt.NDArray[np.int64], given: npt.NDArray[Any]) -> npt.NDArray[Any]:
    moved = np.empty_like(given)
    moved[place] = given
    return moved
