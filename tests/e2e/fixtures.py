"""One suite and one shortened story for all end-to-end tests; only starting them takes long."""

from __future__ import annotations

import secrets
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
import redis
from sqlalchemy import make_url

from client.sdk import Client

if TYPE_CHECKING:
    from examples.flights.story import Outcome
    from examples.flights.suite import Suite

OFFSETS = (0, 1, *range(21, 27), *range(30, 35), 40, 50, *range(71, 77))
"""Ports of a suite above its base port, as far as they are fixed."""


AREAS = ("registry", "features", "training", "serving", "monitoring", "experiments", "gateway")


@pytest.fixture(scope="session", params=["embedded", "servers"])
def suite(request: pytest.FixtureRequest) -> Iterator[Suite]:
    """A suite that is up; when it is stopped nothing of it may stay.

    Once with SQLite and the embedded Valkey, once with PostgreSQL and Redis.
    """
    from examples.flights.suite import Suite
    from tests.fixtures import EMBEDDED

    if request.param == "servers" and EMBEDDED:
        pytest.skip("MODELYARD_TEST_SERVICES=embedded asks for no servers")
    servers = on_servers() if request.param == "servers" else nullcontext({})
    with servers as environment, temporary_home() as home:
        made = Suite(home, free_base_port())
        try:
            with pytest.MonkeyPatch.context() as patch:
                for name, value in environment.items():
                    patch.setenv(name, value)
                made.start()
            yield made
        finally:
            made.stop()
        assert left_behind(home, made.port) == []


@contextmanager
def on_servers() -> Iterator[dict[str, str]]:
    """Settings of a suite on PostgreSQL and Redis, with databases and keys of its own."""
    from tests.fixtures import POSTGRES_URL, REDIS_URL

    mark = f"my_e2e_{secrets.token_hex(4)}"
    admin = make_url(POSTGRES_URL)
    plain = admin.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(plain, autocommit=True, connect_timeout=3) as connection:
        for area in AREAS:
            connection.execute(f'CREATE DATABASE "{mark}_{area}"')
        template = admin.set(database=f"{mark}_AREA").render_as_string(hide_password=False)
        try:
            yield {
                "MODELYARD_SUITE_DATABASE_URL": template.replace("AREA", "{area}"),
                "MODELYARD_SUITE_REDIS_URL": REDIS_URL,
                "MODELYARD_STREAM_PREFIX": mark,
            }
        finally:
            for area in AREAS:
                connection.execute(f'DROP DATABASE "{mark}_{area}" WITH (FORCE)')
            with redis.Redis.from_url(REDIS_URL) as client:
                keys = [key for key in client.scan_iter(count=1_000) if mark.encode() in key]
                if keys:
                    client.delete(*keys)


@pytest.fixture(scope="session")
def streams_url(suite: Suite) -> str:
    """Address of the suite's Redis, embedded or not."""
    from client.suite.plan import SuiteSettings, embedded_redis_url
    from tests.fixtures import REDIS_URL

    if (suite.home / "keys" / "valkey.password").is_file():
        return embedded_redis_url(SuiteSettings(suite.home, suite.port))
    return REDIS_URL


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
