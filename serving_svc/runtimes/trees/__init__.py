"""Forests of decision trees, walked by code that is compiled for this processor.

A general engine takes one row through one tree at a time, and the processor waits at every fork
for what it guessed wrong. Here eight rows go through a tree side by side without a branch. What a
forest answers is compared with the general engine's answers before it takes its place.
"""

from serving_svc.runtimes.trees.agreement import agree
from serving_svc.runtimes.trees.forest import Forest, ForestError
from serving_svc.runtimes.trees.onnx_graph import read_forest
from serving_svc.runtimes.trees.walk import walker

__all__ = ["Forest", "ForestError", "agree", "read_forest", "walker"]
