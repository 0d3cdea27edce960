"""The suite as a contender: all of it, as `modelyard up` starts it."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from bench.serving import suite
from bench.serving.contender import WORKLOADS, Place, Running
from bench.serving.cpu import Group
from bench.serving.model import Matrix
from bench.serving.peers import V2_PATH
from bench.serving.processes import Tree, free_base_port
from bench.serving.requests import (
    Exchange,
    exchange,
    named_instances,
    parse_predict,
    parse_v2,
    v2_binary_exchange,
    v2_json,
)
from client.sdk import Client
from client.suite.supervisor import gateway_readiness
from client.suite.warden import MARK

ROOT = Path(__file__).parents[2]
_OFFSETS = (0, 1, *range(21, 28), 30, 31, 32, 40, 50, *range(71, 77))
#: What a replica's process runs; it is nobody's child, so that it can outlive Ray.
REPLICA = "serving_svc.replica_process"
_HOWS = {
    "v2": "split by the random bits of the request's first id; one tensor, as the peers are asked",
    "key": "the split sticks to a field of the request; `:predict` with named values",
    "features": f"{suite.STORED} of the inputs from the online store by the user's id; `:predict`",
}


@dataclass(frozen=True)
class Modelyard:
    """The whole path: key, split over two versions, replicas placed by Ray Serve, log to Valkey.

    Attributes:
        asked: `v2`, `key` or `features`.
    """

    name: str
    title: str
    asked: str

    @property
    def how(self) -> str:
        """How it serves the model."""
        whole = (
            "the ONNX file's trees, compiled, in Ray Serve replicas; "
            "API key, two versions, every prediction logged"
        )
        return f"{whole}; {_HOWS[self.asked]}"

    def versions(self, _: Place) -> Mapping[str, str]:
        """Versions of what it is made of."""
        return {name: version(name) for name in ("modelyard", "ray", "onnxruntime", "numba")}

    def prepare(self, place: Place) -> None:
        """Its environment is the project's own."""

    @property
    def server(self) -> str:
        """All ways of asking share one suite."""
        return "suite"

    def start(self, place: Place, beside: Running | None = None) -> Running:
        """Starts the suite on free ports and sets it up."""
        running = beside or self._start(place)
        key = api_key(home_of(place))
        asked = {
            name: each.with_headers({"Authorization": f"Bearer {key}"})
            for name, each in exchanges(self.asked, place.models[0].rows).items()
        }
        return replace(running, exchanges=asked)

    def _start(self, place: Place) -> Running:
        home = home_of(place)
        shutil.rmtree(home, ignore_errors=True)
        tree, client = launch(home, free_base_port(_OFFSETS), place.scratch / "suite.log")
        try:
            with client:
                suite.set_up(client, api_key(home), place.models)
        except BaseException:
            tree.stop()
            raise
        answers = tuple(each.expected for each in place.models)
        return Running(tree, client.url, {}, answers, parts_of(home), lambda: replicas_of(home))


def home_of(place: Place) -> Path:
    """Folder of the suite."""
    return place.scratch.absolute() / "suite"


def launch(home: Path, port: int, log: Path) -> tuple[Tree, Client]:
    """Starts a suite in a new home and waits until it is ready.

    Raises:
        StartError: It isn't.
    """
    where = ("--home", str(home), "--port", str(port))
    tree = Tree((sys.executable, "-m", "client.cli", "up", *where), {}, ROOT, log)
    url = f"http://127.0.0.1:{port}"
    try:
        tree.wait_until(lambda: all(gateway_readiness(url).values()))
    except BaseException:
        tree.stop()
        raise
    return tree, Client(url, api_key(home), timeout=60.0)


def api_key(home: Path) -> str:
    """The admin's key."""
    return (home / "keys" / "admin.key").read_text().strip()


def exchanges(asked: str, rows: Matrix) -> Mapping[str, Exchange]:
    """What the suite is asked, by workload."""
    if asked == "v2":
        return {
            each.name: v2_binary_exchange(V2_PATH, rows)
            if each.binary
            else exchange(V2_PATH, rows, each.rows, v2_json, parse_v2)
            for each in WORKLOADS
        }
    stored = suite.STORED if asked == "features" else 0
    endpoint = suite.LOOKED_UP if stored else suite.MODEL
    return {
        each.name: _predict(endpoint, rows, each.rows, stored)
        for each in WORKLOADS
        if not each.binary
    }


def _predict(endpoint: str, rows: Matrix, batch: int, stored: int) -> Exchange:
    instances: Sequence[dict[str, Any]] = [
        {suite.KEY: user, **given}
        for user, given in zip(
            suite.users(len(rows)),
            named_instances(rows[:, stored:], suite.NAMES[stored:]),
            strict=True,
        )
    ]
    parts = [slice(at, at + batch) for at in range(0, len(rows), batch)]
    bodies = [json.dumps({"instances": instances[part]}).encode() for part in parts]
    return Exchange(f"/v1/endpoints/{endpoint}:predict", bodies, parts, parse_predict)


def replicas_of(home: Path) -> Sequence[psutil.Process]:
    """The replicas of a suite."""
    state = json.loads((home / "run" / "suite.json").read_text())
    mark = psutil.Process(state["processes"]["gateway"]).environ()[MARK]
    found = []
    for process in psutil.process_iter():
        try:
            if REPLICA in process.cmdline() and process.environ().get(MARK) == mark:
                found.append(process)
        except psutil.Error:
            continue  # it has ended, or is somebody else's
    return found


def parts_of(home: Path) -> Group:
    """Says which part of the suite a process belongs to: gateway, replicas, valkey, ray, others."""
    state = json.loads((home / "run" / "suite.json").read_text())
    names = {pid: name for name, pid in state["processes"].items()}

    def part(process: psutil.Process) -> str:
        if REPLICA in process.cmdline():
            return "replicas"
        for each in (process, *process.parents()):
            if each.pid in names:
                name = names[each.pid]
                return name if name in ("gateway", "valkey", "ray") else "other services"
        return "other services"

    return part
