"""The peers: how each is installed, started and asked."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.serving import environments
from bench.serving.check import answers
from bench.serving.contender import WORKLOADS, Place, Running, first
from bench.serving.cpu import Group, one_group
from bench.serving.model import Matrix, Model
from bench.serving.processes import Tree, free_port
from bench.serving.requests import (
    Body,
    Exchange,
    Parse,
    exchange,
    parse_v2,
    v2_binary_exchange,
    v2_json,
)

SERVERS = Path(__file__).with_name("servers")
V2_PATH = "/v2/models/bench/infer"

ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
"""A single row is not worth a second thread; every server gets the same."""

Command = Callable[[Path, int, Place], Sequence[str]]
"""What to start, of the environment's Python, a port and the place."""


@dataclass(frozen=True)
class Peer:
    """A server of somebody else's.

    Attributes:
        requirements: Distributions of its environment; peers with the same share it.
        env: Added to its environment variables.
        binary: Whether it takes binary tensors.
        setup: Done once its environment is there, before it starts.
    """

    name: str
    title: str
    how: str
    requirements: tuple[str, ...]
    command: Command
    shown: tuple[str, ...]
    path: str = V2_PATH
    body: Body = v2_json
    parse: Parse = parse_v2
    env: Mapping[str, str] = field(default_factory=dict)
    binary: bool = False
    folder: Path = SERVERS
    setup: Callable[[Path, int, Place], None] | None = None
    exchanges: Callable[[Matrix], Mapping[str, Exchange]] | None = None
    group: Group = one_group

    @property
    def server(self) -> str:
        """It shares its start with nobody."""
        return self.name

    def environment(self, place: Place) -> Path:
        """Folder of its environment."""
        return place.home / "envs" / self.requirements[0].partition("[")[0]

    def versions(self, place: Place) -> Mapping[str, str]:
        """Versions of what it is made of."""
        return environments.installed(self.environment(place), self.shown)

    def prepare(self, place: Place) -> None:
        """Makes its environment."""
        environments.ensure(self.environment(place), self.requirements)

    def start(self, place: Place, beside: Running | None = None) -> Running:
        """Starts it on a free port."""
        if beside is not None:
            return beside
        python = self.environment(place).absolute() / "bin" / "python"
        port = free_port()
        if self.setup is not None:
            self.setup(python, port, place)
        tree = Tree(
            self.command(python, port, place),
            {**variables(python, port, place.models[0]), **self.env},
            self.folder,
            place.scratch / f"{self.name}.log",
        )
        running = Running(
            tree,
            f"http://127.0.0.1:{port}",
            self._asked(place),
            (place.models[0].expected,),
            self.group,
        )
        try:
            tree.wait_until(lambda: answers(running.base, first(running.exchanges)))
        except BaseException:
            tree.stop()
            raise
        return running

    def _asked(self, place: Place) -> Mapping[str, Exchange]:
        rows = place.models[0].rows
        if self.exchanges is not None:
            return self.exchanges(rows)
        found = {}
        for each in WORKLOADS:
            if not each.binary:
                found[each.name] = exchange(self.path, rows, each.rows, self.body, self.parse)
            elif self.binary:
                found[each.name] = v2_binary_exchange(self.path, rows)
        return found


def variables(python: Path, port: int, model: Model) -> Mapping[str, str]:
    """Environment that every peer gets: its own commands first, one thread a library."""
    return {
        "PATH": f"{python.parent}:{os.environ['PATH']}",
        "PYTHONUNBUFFERED": "1",
        "BENCH_PORT": str(port),
        "BENCH_ONNX": str(model.onnx.absolute()),
        "BENCH_NATIVE": str(model.native.absolute()),
        **ONE_THREAD,
    }
