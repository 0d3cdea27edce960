"""What a benchmark came to, and its JSON."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

Json = dict[str, Any]


@dataclass(frozen=True)
class Measured:
    """One server under one workload in one round.

    Attributes:
        cpu_us: Server CPU per request over all its processes, microseconds.
        cpu_us_by_part: The same by part of the server.
        generator_cpu_us: CPU of the load generator per request, which is not in `cpu_us`.
    """

    rps: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    requests: int
    errors: int
    cpu_us: float
    cpu_us_by_part: Mapping[str, float]
    generator_cpu_us: float


@dataclass
class Record:
    """One server over all rounds.

    Attributes:
        problem: Why it could not be measured; empty when it could.
        rounds: Figures by workload; nothing for a round that failed.
        difference: Largest difference of an answer from the model's own.
    """

    name: str
    title: str
    how: str
    versions: Mapping[str, str] = field(default_factory=dict)
    problem: str = ""
    difference: float = 0.0
    rounds: dict[str, list[Measured | None]] = field(default_factory=dict)

    def figures(self, workload: str, figure: str) -> list[float | None]:
        """A figure by round."""
        found = self.rounds.get(workload, [])
        return [None if each is None else float(getattr(each, figure)) for each in found]

    def has(self, workload: str) -> bool:
        """Whether there is a figure at all."""
        return any(each is not None for each in self.rounds.get(workload, []))


@dataclass
class Results:
    """A whole benchmark."""

    machine: Mapping[str, str]
    date: str
    rounds: int
    seconds: float
    records: list[Record]

    def to_json(self) -> str:
        """All of it."""
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Results:
        """Reads what `to_json` wrote."""
        found: Json = json.loads(text)
        return cls(**{**found, "records": [_record(each) for each in found["records"]]})


def _record(found: Json) -> Record:
    rounds = {
        name: [None if each is None else Measured(**each) for each in values]
        for name, values in found["rounds"].items()
    }
    return Record(**{**found, "rounds": rounds})


def begin(rounds: int, seconds: float, records: Sequence[Record]) -> Results:
    """An empty benchmark of today on this machine."""
    return Results(machine(), f"{datetime.now(UTC):%Y-%m-%d}", rounds, seconds, list(records))


def machine() -> Mapping[str, str]:
    """What it runs on."""
    memory = psutil.virtual_memory().total / 2**30
    return {
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "memory": f"{memory:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
