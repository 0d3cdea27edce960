"""One suite and one shortened story for all end-to-end tests; only starting them takes long."""

from __future__ import annotations

import secrets
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from client.sdk import Client

if TYPE_CHECKING:
    from examples.flights.story import Outcome
    from examples.flights.suite import Suite

OFFSETS = (0, 1, *range(21, 27), 30, 31, 32, 40, *range(71, 77))
"""Ports of a suite above its base port, as far as they are fixed."""


@pytest.fixture(scope="session")
def suite() -> Iterator[Suite]:
    """A suite that is up; when it is stopped nothing of it may stay."""
    from examples.flights.suite import Suite

    with temporary_home() as home:
        made = Suite(home, free_base_port())
        try:
            made.start()
            yield made
        finally:
            made.stop()
        assert left_behind(home, made.port) == []


@pytest.fixture(scope="session")
def client(suite: Suite) -> Iterator[Client]:
    """A client of the suite with the admin's key."""
    with suite.client() as made:
        yield made


@pytest.fixture(scope="session")
def story(client: Client) -> Outcome:
    """What a shortened story on the suite came to."""
    from rich.console import Console

    from examples.flights.story import FAST, Story

    return Story(client, FAST, Console(width=110)).run()


class temporary_home:  # noqa: N801 - used like a function
    """A folder for a suite, with a path short enough for Ray's sockets."""

    def __init__(self) -> None:
        self._path = Path(tempfile.gettempdir()) / f"myard-{secrets.token_hex(4)}"

    def __enter__(self) -> Path:
        return self._path

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._path, ignore_errors=True)


def free_base_port() -> int:
    """A base port whose suite's ports are all free."""
    for _ in range(200):
        base = 20_000 + 100 * secrets.randbelow(100)
        if not any(listens(base + offset) for offset in OFFSETS):
            return base
    raise AssertionError("no free ports")


def listens(port: int) -> bool:
    """Whether something listens on a local port."""
    with closing(socket.socket()) as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def left_behind(home: Path, port: int, seconds: float = 10.0) -> list[str]:
    """Command lines of a suite's processes, and its ports, that are still there after a while."""
    deadline = time.monotonic() + seconds
    while found := [*processes_of(home), *(f"port {p}" for p in open_ports(port))]:
        if time.monotonic() > deadline:
            break
        time.sleep(0.1)
    return found


def open_ports(base: int) -> list[int]:
    """Ports of a suite on which something listens."""
    return [base + offset for offset in OFFSETS if listens(base + offset)]


def processes_of(home: Path) -> list[str]:
    """Command lines of all processes that carry a suite's folder in arguments or environment."""
    mark = str(home).encode()
    found = []
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        try:
            command = (process / "cmdline").read_bytes()
            if mark in command or mark in (process / "environ").read_bytes():
                found.append(command.replace(b"\0", b" ").decode(errors="replace")[:200])
        except OSError:
            continue  # it has just ended, or is somebody else's
    return found
