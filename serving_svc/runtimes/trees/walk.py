"""Rows through forests, compiled by Numba for the processor that it runs on.

Float sums are made as ONNX Runtime makes them with one thread: tree after tree in float32, then
what is added to all. So answers are the same to the last digit or two.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt

from serving_svc.runtimes.base import Matrix, Scorer
from serving_svc.runtimes.trees import forest as layout
from serving_svc.runtimes.trees.forest import Forest, ForestError

#: Rows that go through a tree side by side: as many as hide how long each step takes, and no more
#: than the registers hold.
LANES = 8
#: Rows behind the last eight that go alone; more go as eight of which some do not count.
_FEW = 2
#: The layout's numbers once more: code that was compiled with others is dropped only when this very
#: file has changed.
CHILD_BITS, COLUMN_BITS, NO_FORK = 20, 12, 0x7FFFFFFF
if (CHILD_BITS, COLUMN_BITS, NO_FORK) != (layout.CHILD_BITS, layout.COLUMN_BITS, layout.NO_FORK):
    raise ImportError("the layout of forests has changed: change it here as well")
_CHILD, _COLUMN = (1 << CHILD_BITS) - 1, (1 << COLUMN_BITS) - 1
_THRESHOLD = CHILD_BITS + COLUMN_BITS
_INFINITY = 0x7F800000
_NONE, _LOGISTIC, _SOFTMAX = range(3)
_AFTER = {"none": _NONE, "logistic": _LOGISTIC, "softmax": _SOFTMAX}

Eight: TypeAlias = tuple[int, int, int, int, int, int, int, int]
Integers: TypeAlias = npt.NDArray[np.int64]
Floats: TypeAlias = npt.NDArray[np.float32]
Keys: TypeAlias = npt.NDArray[np.int32]
Scores: TypeAlias = npt.NDArray[np.float32]
Function = TypeVar("Function", bound=Callable[..., Any])


def _compiled(function: Function) -> Function:
    made: Any = numba.njit(nogil=True, cache=True, error_model="numpy")(function)
    return cast(Function, made)


@_compiled
def _key(bits: np.int32) -> np.int32:
    """As `keys_of`; NaN is above all else."""
    if bits & NO_FORK > _INFINITY:
        return np.int32(NO_FORK)
    if bits & NO_FORK == 0:
        return np.int32(0)
    return np.int32(bits ^ ((bits >> 31) & NO_FORK))


@_compiled
def _keys(bits: Keys, doubled: bool) -> Keys:
    """Keys of inputs, with rows behind the last one for those who take eight at a time."""
    rows, inputs = bits.shape
    keys = np.empty((rows + LANES - 1, 2 * inputs if doubled else inputs), np.int32)
    for row in range(rows):
        for column in range(inputs):
            key = _key(bits[row, column])
            keys[row, column] = key
            if doubled:
                keys[row, inputs + column] = -NO_FORK - 1 if key == NO_FORK else key
    return keys


@_compiled
def _next(tree: Integers, keys: Keys, row: int, at: int) -> int:
    """One step of one row."""
    node = tree[np.uintp(at)]
    key = np.int64(keys[np.uintp(row), np.uintp((node >> CHILD_BITS) & _COLUMN)])
    return int((node & _CHILD) + (key > (node >> _THRESHOLD)))


@_compiled
def _leaf(tree: Integers, keys: Keys, row: int, at: int) -> int:
    """The leaf of one row that is at a node."""
    while tree[np.uintp(at)] & _CHILD != at:
        at = _next(tree, keys, row, at)
    return at


@_compiled
def _leaves(tree: Integers, steps: int, keys: Keys, row: int) -> Eight:
    """The leaves of eight rows.

    Args:
        steps: After so many, most leaves are reached.
    """
    # Written out, as only then all of it is kept in registers.
    a = b = c = d = e = f = g = h = 0
    for _ in range(steps):
        a = _next(tree, keys, row, a)
        b = _next(tree, keys, row + 1, b)
        c = _next(tree, keys, row + 2, c)
        d = _next(tree, keys, row + 3, d)
        e = _next(tree, keys, row + 4, e)
        f = _next(tree, keys, row + 5, f)
        g = _next(tree, keys, row + 6, g)
        h = _next(tree, keys, row + 7, h)
    a = _leaf(tree, keys, row, a)
    b = _leaf(tree, keys, row + 1, b)
    c = _leaf(tree, keys, row + 2, c)
    d = _leaf(tree, keys, row + 3, d)
    e = _leaf(tree, keys, row + 4, e)
    f = _leaf(tree, keys, row + 5, f)
    g = _leaf(tree, keys, row + 6, g)
    h = _leaf(tree, keys, row + 7, h)
    return a, b, c, d, e, f, g, h


@_compiled
def _logistic(score: np.float32) -> np.float32:
    part = np.float32(1) / (np.float32(1) + np.float32(math.exp(-abs(score))))
    return part if score >= 0 else np.float32(1) - part


@_compiled
def _finish(
    scores: npt.NDArray[np.float32], scale: np.float32, base: npt.NDArray[np.float32], after: int
) -> None:
    """Make answers of sums."""
    for row in range(scores.shape[0]):
        most = np.float32(-np.inf)
        for output in range(scores.shape[1]):
            score = scores[row, output] * scale + base[output]
            scores[row, output] = _logistic(score) if after == _LOGISTIC else score
            most = max(most, score)
        if after == _SOFTMAX:
            total = np.float32(0)
            for output in range(scores.shape[1]):
                scores[row, output] = np.float32(math.exp(scores[row, output] - most))
                total += scores[row, output]
            for output in range(scores.shape[1]):
                scores[row, output] /= total


@_compiled
def _walk(
    keys: Keys,
    nodes: Integers,
    starts: Integers,
    steps: Integers,
    slots: Integers,
    values: Floats,
    first: Integers,
    widths: Integers,
    scores: Scores,
) -> None:
    """Add what the leaves of all rows give; `keys` has as many rows as the last eight need."""
    rows = len(scores)
    whole = rows if rows % LANES > _FEW else rows - rows % LANES
    for number in range(len(steps)):
        start, end = starts[number], starts[number + 1]
        tree, slot = nodes[start:end], slots[start:end]
        output, width = first[number], widths[number]
        for row in range(0, whole, LANES):
            leaves = _leaves(tree, steps[number], keys, row)
            for lane in range(min(LANES, rows - row)):
                at = slot[leaves[lane]]
                # Not a function: handing arrays on costs more than the sum.
                for each in range(width):
                    scores[row + lane, output + each] += values[at + each]
        for row in range(whole, rows):
            at = slot[_leaf(tree, keys, row, 0)]
            for each in range(width):
                scores[row, output + each] += values[at + each]


def walker(forest: Forest, outputs: int) -> Scorer:
    """A scorer of a forest; the first call compiles, or loads what was compiled before.

    Args:
        outputs: Columns of the answer: those of the forest, one less (of two classes, the second),
            or one more (of two classes, of which the forest has the second's score).

    Raises:
        ForestError: For another number of outputs.
    """
    own = len(forest.base)
    if not (outputs == own or {outputs, own} == {1, 2}):
        raise ForestError(f"the trees have {own} outputs, the signature {outputs}")
    trees = forest.nodes, forest.starts, forest.steps
    slots, values, places = forest.slots, forest.values, (forest.first, forest.widths)
    scale, base, after = np.float32(forest.scale), forest.base, _AFTER[forest.after]

    def score(matrix: Matrix) -> Matrix:
        # Compiled code looks where it is told to, within the matrix or not.
        if matrix.ndim != 2 or matrix.shape[1] != forest.inputs or matrix.dtype != np.float32:
            raise ValueError(f"{matrix.dtype} {matrix.shape} for {forest.inputs} inputs of float32")
        bits = np.ascontiguousarray(matrix).view(np.int32)
        bits.flags.writeable = False  # for both kinds of arrays, there would be code for both
        keys = _keys(bits, forest.doubled)
        scores: Matrix = np.zeros((len(matrix), own), np.float32)
        _walk(keys, *trees, slots, values, *places, scores)
        _finish(scores, scale, base, after)
        if outputs == own:
            return scores
        return scores[:, 1:] if outputs < own else np.hstack((1 - scores, scores))

    return score
