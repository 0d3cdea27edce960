"""What the benchmark needs of a server, whoever made it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from bench.serving.cpu import Group, Strays, nobody, one_group
from bench.serving.model import Model, Vector
from bench.serving.processes import Tree
from bench.serving.requests import Exchange


@dataclass(frozen=True)
class Workload:
    """A way of asking.

    Attributes:
        rows: Rows a request.
        binary: Whether with the protocol's binary tensors instead of JSON.
    """

    name: str
    title: str
    rows: int
    connections: int
    binary: bool = False


WORKLOADS = (
    Workload("row1", "1 row, 1 connection", 1, 1),
    Workload("row32", "1 row, 32 connections", 1, 32),
    Workload("batch8", "64 rows, 8 connections, JSON", 64, 8),
    Workload("binary8", "64 rows, 8 connections, binary tensors", 64, 8, binary=True),
)


@dataclass(frozen=True)
class Place:
    """Where a benchmark keeps its things.

    Attributes:
        models: Two trainings of the model; peers serve the first, the suite splits both.
        scratch: For the files of running servers.
    """

    home: Path
    models: tuple[Model, Model]

    @property
    def scratch(self) -> Path:
        """A folder for logs and files of servers."""
        path = self.home / "run"
        path.mkdir(parents=True, exist_ok=True)
        return path


@dataclass(frozen=True)
class Running:
    """A server that answers.

    Attributes:
        base: `http://host:port`.
        exchanges: What to ask, by workload; a workload that is absent can't be asked.
        accepted: Answers to the model's rows by each version that serves.
        group: What each process belongs to.
        strays: Its processes that are not in the tree.
    """

    tree: Tree
    base: str
    exchanges: Mapping[str, Exchange]
    accepted: tuple[Vector, ...]
    group: Group = field(default=one_group)
    strays: Strays = field(default=nobody)


class Contender(Protocol):
    """A server to measure."""

    @property
    def name(self) -> str:
        """Short name, as on the command line."""

    @property
    def title(self) -> str:
        """What it is, for people."""

    @property
    def server(self) -> str:
        """What it measures; neighbours of the same server share one start."""

    @property
    def how(self) -> str:
        """How it serves the model."""

    def versions(self, place: Place) -> Mapping[str, str]:
        """Versions of its distributions."""

    def prepare(self, place: Place) -> None:
        """Makes its environment; may take minutes the first time. Raises StartError."""

    def start(self, place: Place, beside: Running | None = None) -> Running:
        """Starts it and waits until it answers. Raises StartError.

        Args:
            beside: The same server, when it runs already.
        """


def first(exchanges: Mapping[str, Exchange]) -> Exchange:
    """What to ask to see whether a server answers."""
    return next(iter(exchanges.values()))
