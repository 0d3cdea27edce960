"""One suite for all faults: it must be whole again after each of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from sqlalchemy import make_url

from examples.flights.suite import Suite
from tests.e2e.fixtures import free_base_port, left_behind, on_servers, temporary_home
from tests.faults.part import Part, deploy
from tests.faults.proxy import Proxy
from tests.fixtures import EMBEDDED, POSTGRES_URL


@pytest.fixture(scope="module")
def postgres() -> Iterator[Proxy | None]:
    """The way to PostgreSQL, which is never stopped itself; nothing when the suite has SQLite."""
    if EMBEDDED:
        yield None
        return
    url = make_url(POSTGRES_URL)
    with Proxy(url.host or "127.0.0.1", url.port or 5432) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def part(postgres: Proxy | None) -> Iterator[Part]:
    """A suite with an endpoint of two replicas; when it is stopped nothing of it may stay."""
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        if postgres is not None:
            given = stack.enter_context(on_servers())
            template = given["MODELYARD_SUITE_DATABASE_URL"]
            target = f"{make_url(POSTGRES_URL).host}:{make_url(POSTGRES_URL).port or 5432}"
            mine = template.replace(target, f"127.0.0.1:{postgres.port}")
            assert mine != template
            patch.setenv("MODELYARD_SUITE_DATABASE_URL", mine)
        home = stack.enter_context(temporary_home())
        suite = Suite(home, free_base_port())
        try:
            suite.start()
            made = Part(suite)
            deploy(made)
            yield made
        finally:
            suite.stop()
        assert left_behind(home, suite.port) == []
