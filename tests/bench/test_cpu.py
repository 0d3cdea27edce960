"""CPU time of a tree of processes that is known."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from bench.serving.cpu import Used, snapshot, spent

BURN = "import time\nwhile time.process_time() < {seconds}: pass\n"
TREE = f"""
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {BURN.format(seconds=0.3)!r} + "input()"],
                         stdin=subprocess.PIPE, stdout=subprocess.PIPE)
ended = subprocess.run([sys.executable, "-c", {BURN.format(seconds=0.5)!r}], check=True)
print("ready", flush=True)
input()
child.communicate(b"\\n")
print("waited", flush=True)
input()
"""


@pytest.fixture
def tree() -> Iterator[subprocess.Popen[str]]:
    made = subprocess.Popen(
        [sys.executable, "-c", TREE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    yield made
    made.kill()
    made.communicate()


def says(tree: subprocess.Popen[str], word: str) -> None:
    assert tree.stdout is not None
    assert tree.stdout.readline().strip() == word


def test_all_of_a_tree_is_counted_also_what_has_ended(tree: subprocess.Popen[str]) -> None:
    says(tree, "ready")
    found = snapshot(tree.pid)
    assert len(found) == 2
    used = spent({}, found)["server"]
    assert 0.5 <= used < 5.0


def test_a_process_that_ends_in_between_is_not_counted_twice(tree: subprocess.Popen[str]) -> None:
    says(tree, "ready")

    def group(process: psutil.Process) -> str:
        return "root" if process.pid == tree.pid else "child"

    before = snapshot(tree.pid, group)
    assert tree.stdin is not None
    tree.stdin.write("\n")
    tree.stdin.flush()
    says(tree, "waited")
    after = snapshot(tree.pid, group)
    assert len(after) == 1
    total = sum(each.seconds for each in after.values())
    earlier = sum(each.seconds for each in before.values())
    used = spent(before, after)
    assert used == {"root": pytest.approx(total - earlier, abs=1e-6)}


def test_new_processes_count_from_their_start() -> None:
    old, new = (1, 0.0), (2, 0.0)
    before = {old: Used("a", 0, 2.0)}
    after = {old: Used("a", 0, 2.5), new: Used("b", 1, 1.0)}
    assert spent(before, after) == {"a": 0.5, "b": 1.0}
