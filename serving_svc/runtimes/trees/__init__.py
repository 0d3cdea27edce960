"""Forests of decision trees, walked by code that is compiled for this processor.

A general engine takes one row through one tree at a time, and the processor waits at every fork
for what it guessed wrong. Here eight rows go through a tree side by side without a branch. What a
forest answers is compared with the general engine's answers before it takes its place.
"""

from __future__ import annotations

import logging
import mmap
from pathlib import Path

from serving_svc.runtimes.base import Scorer

#: Trees from which on compiling pays: it costs 50 MB of memory and most of a second of each load,
#: and fewer trees cost microseconds either way.
WORTHWHILE = 20
_MARK = b"TreeEnsemble"
_log = logging.getLogger(__name__)


def compiled(
    path: Path, names: tuple[str, str], shape: tuple[int, int], score: Scorer
) -> Scorer | None:
    """What scores an ONNX model that is a forest, and nothing else, as another scorer does.

    Nothing when it is none, too small to be worth it, or can't be had for whatever reason: the
    other scorer is there. Libraries are loaded only when they are needed.

    Args:
        names: Those of the model's input and of its answer.
        shape: Columns of the input and of the answer.
        score: The model by another engine.
    """
    from serving_svc.runtimes.trees.forest import ForestError

    try:
        return _compiled(path, names, shape, score) if _has_trees(path) else None
    except ForestError as error:
        _log.info("the model is no forest to compile", extra={"reason": str(error)})
    except Exception:
        # A broken cache of compiled code, a full disk: no reason not to serve.
        _log.warning("a forest can't be compiled", exc_info=True)
    return None


def _compiled(
    path: Path, names: tuple[str, str], shape: tuple[int, int], score: Scorer
) -> Scorer | None:
    from serving_svc.runtimes.trees.onnx_graph import read_forest

    forest = read_forest(path, names, shape[0])
    if len(forest.steps) < WORTHWHILE:
        return None
    from serving_svc.runtimes.trees.agreement import agree
    from serving_svc.runtimes.trees.walk import walker

    walk = walker(forest, shape[1])
    if agree(forest, walk, score):
        return walk
    _log.warning("a compiled forest answers otherwise than ONNX Runtime, which stays")
    return None


def _has_trees(path: Path) -> bool:
    """A look without reading the file: it may be a network of many gigabytes."""
    if not path.stat().st_size:
        return False
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(_MARK) >= 0
