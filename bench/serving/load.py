"""Load, made by generators written in C: wrk for HTTP/1.1, h2load for gRPC.

Both keep a fixed number of connections busy, each with one request at a time.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.serving.requests import Exchange

SCRIPT = Path(__file__).with_name("load.lua")
PACKAGES = {"wrk": "wrk", "h2load": "nghttp2-client"}
"""Generators, and the Debian packages that have them."""
GRACE_S = 20.0


class GeneratorError(Exception):
    """A generator that is not there or has failed."""


@dataclass(frozen=True)
class Load:
    """What a server did under load.

    Attributes:
        requests: Answers, also those that were errors.
        generator_cpu_s: CPU time of the generator, which is never the server's.
    """

    requests: int
    seconds: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    errors: int
    generator_cpu_s: float


def missing_generators() -> list[str]:
    """Debian packages to install."""
    return [package for tool, package in PACKAGES.items() if shutil.which(tool) is None]


def run_load(
    base: str, exchange: Exchange, connections: int, seconds: float, answer_bytes: int
) -> Load:
    """Asks as fast as answers come.

    Args:
        base: `http://host:port`.
        connections: How many, each with one request at a time.
        answer_bytes: Length of a good answer, by which failed gRPC calls are found.

    Raises:
        GeneratorError: The generator has failed.
    """
    with tempfile.TemporaryDirectory(prefix="bench-load-") as scratch:
        folder = Path(scratch)
        if exchange.grpc:
            return _h2load(base, exchange, connections, seconds, folder, answer_bytes)
        return _wrk(base, exchange, connections, seconds, folder)


def _wrk(base: str, exchange: Exchange, connections: int, seconds: float, folder: Path) -> Load:
    headers = "".join(f"{name}: {value}\n" for name, value in exchange.headers.items())
    (folder / "headers").write_text(headers)
    (folder / "count").write_text(str(len(exchange.bodies)))
    for index, body in enumerate(exchange.bodies, 1):
        (folder / str(index)).write_bytes(body)
    command = (
        *("wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "10s"),
        *("-s", str(SCRIPT), base + exchange.path, "--", str(folder)),
    )
    text, cpu = _run(command, seconds)
    return parse_wrk(text, cpu)


def parse_wrk(text: str, cpu: float) -> Load:
    """Reads what `load.lua` prints.

    Raises:
        GeneratorError: There is no such line.
    """
    for line in text.splitlines():
        if line.startswith('{"requests"'):
            found = json.loads(line)
            return Load(
                requests=found["requests"],
                seconds=found["seconds"],
                p50_ms=found["p50"],
                p95_ms=found["p95"],
                p99_ms=found["p99"],
                errors=found["errors"],
                generator_cpu_s=cpu,
            )
    raise GeneratorError(f"wrk says: {text[-300:]}")


def _h2load(
    base: str, exchange: Exchange, connections: int, seconds: float, folder: Path, answer: int
) -> Load:
    body, log = folder / "body", folder / "log"
    body.write_bytes(exchange.bodies[0])
    headers = [f"-H{name}: {value}" for name, value in exchange.headers.items()]
    command = (
        *("h2load", "-t1", f"-c{connections}", "-m1", f"-D{max(1, round(seconds))}"),
        *(f"-d{body}", f"--log-file={log}", *headers, base + exchange.path),
    )
    text, cpu = _run(command, seconds)
    return parse_h2load(text, log.read_text().splitlines(), answer, cpu)


def parse_h2load(text: str, log: Sequence[str], answer_bytes: int, cpu: float) -> Load:
    """Reads what h2load prints, and its log: start, status and microseconds of each request.

    A failed gRPC call has the status 200 and no message, so the bytes that came tell how many
    answers were good.

    Raises:
        GeneratorError: There is nothing to read.
    """
    took = re.search(r"finished in ([\d.]+)(ms|s)", text)
    data = re.search(r"\((\d+)\) data", text)
    if took is None or data is None or not log:
        raise GeneratorError(f"h2load says: {text[-300:]}")
    fields = [line.split() for line in log]
    latency = np.array([int(each[2]) for each in fields]) / 1e3
    good = min(sum(each[1] == "200" for each in fields), int(data[1]) // answer_bytes)
    return Load(
        requests=len(fields),
        seconds=float(took[1]) / (1e3 if took[2] == "ms" else 1.0),
        p50_ms=float(np.percentile(latency, 50)),
        p95_ms=float(np.percentile(latency, 95)),
        p99_ms=float(np.percentile(latency, 99)),
        errors=len(fields) - good,
        generator_cpu_s=cpu,
    )


def _run(command: Sequence[str], seconds: float) -> tuple[str, float]:
    before = os.times()
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=seconds + GRACE_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise GeneratorError(f"{command[0]}: {error}") from error
    after = os.times()
    if done.returncode:
        raise GeneratorError(f"{command[0]} failed: {done.stderr[-300:]}")
    used = after.children_user + after.children_system
    return done.stdout, used - before.children_user - before.children_system
